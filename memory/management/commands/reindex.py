"""manage.py reindex"""

import os

from memory.admission.pace import Pace
from memory.embedding import spaces
from memory.embedding.process import configured_embedders
from memory.errors import InvalidUserId, MemoryServiceError
from memory.maintenance.command import Exit, ServiceCommand, failed, usage
from memory.maintenance.moves import ADVISORY_LOCK, Reindexed, reindex_users
from memory.sealing.names import user_hash_of


class Command(ServiceCommand):
    lock = ADVISORY_LOCK
    stands_back = True
    help = (
        "Move users into another embedding space, one after the other, while they read and write: new chunks, another "
        "model, another protection or a new search key. Without --space, into the one that the settings describe. "
        "Stopped anywhere, the next run goes on. Exit 1 when rows of somebody do not open: he stays where he is."
    )

    def add_arguments(self, parser):
        parser.add_argument("--user", metavar="ID", help="move this user only")
        parser.add_argument("--space", type=int, metavar="N", help="the number that register_space printed")
        parser.add_argument(
            "--chunks-per-second",
            type=float,
            default=100.0,
            metavar="N",
            help="at most so many chunks a second, default 100; 0: as many as go",
        )
        parser.add_argument("--dry-run", action="store_true", help="say whom it would move, and move nobody")

    def handle(self, *, user, space, chunks_per_second, dry_run, **options):
        if chunks_per_second < 0:
            raise usage("--chunks-per-second is 0 or more")
        done = Reindexed(dry_run)
        try:
            user_hash = None if user is None else user_hash_of(user)
        except InvalidUserId as exc:
            raise usage(exc.detail) from None
        # One thread for the model.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        with self.alone() as connection:
            self.work(done.summary)
            try:
                done.space = _target(space)
                reindex_users(
                    connection, done, user_hash=user_hash, pace=Pace(chunks_per_second), progress=self.progress
                )
            except MemoryServiceError as exc:
                raise failed(exc.detail) from None
        code = Exit.FINDINGS if done.damaged else Exit.PARTIAL if done.failed else Exit.DONE
        self.conclude(done.summary(), code)


def _target(number: int | None) -> int:
    """The space to move into, registered. Raises SpaceMismatch, ModelUnavailable."""
    if number is not None:
        return spaces.space_of(number).number
    embedder = configured_embedders()[-1]
    embedder.load()
    return spaces.newest_of(embedder)
