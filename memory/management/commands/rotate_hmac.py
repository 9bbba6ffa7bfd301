"""manage.py rotate_hmac"""

from memory.admission.pace import Pace
from memory.errors import MemoryServiceError
from memory.maintenance import hmac_keys, hmac_rotation
from memory.maintenance.command import Exit, ServiceCommand, failed, usage
from memory.maintenance.hmac_rotation import Renamed
from memory.maintenance.moves import ADVISORY_LOCK


class Command(ServiceCommand):
    lock = ADVISORY_LOCK
    stands_back = True
    help = (
        "Rename every user from one tenant HMAC key to another, while he reads and writes: with both keys set, for all "
        "workers, run it; then with --retire; then leave out the old key. Stopped anywhere, the next run goes on. Exit "
        "1 when a step is refused, or rows of somebody do not open: he keeps his name."
    )

    def add_arguments(self, parser):
        step = parser.add_mutually_exclusive_group()
        step.add_argument("--status", action="store_true", help="say which key names users, and change nothing")
        step.add_argument(
            "--retire",
            action="store_true",
            help="take away the links between old and new names; refused while anybody has his old one",
        )
        step.add_argument(
            "--dry-run", action="store_true", help="say how many users it would rename, and rename nobody"
        )
        parser.add_argument(
            "--chunks-per-second",
            type=float,
            default=500.0,
            metavar="N",
            help="at most so many chunks a second, default 500; 0: as many as go",
        )

    def handle(self, *, status, retire, dry_run, chunks_per_second, **options):
        if chunks_per_second < 0:
            raise usage("--chunks-per-second is 0 or more")
        done = Renamed(dry_run)
        with self.alone() as connection:
            self.work(done.summary)
            try:
                if status:
                    self.conclude({"keys": list(hmac_keys.known_keys(connection))})
                    return
                keys = hmac_keys.keys_to_rotate(connection)
                if retire:
                    self.conclude({"links_removed": hmac_rotation.retire(connection, keys, self.progress)})
                    return
                if not keys.is_promoted and not dry_run:
                    hmac_keys.promote(connection, keys)
                elif not dry_run:
                    hmac_keys.require_workers(connection, keys)
                hmac_rotation.rename_users(connection, keys, done, pace=Pace(chunks_per_second), progress=self.progress)
            except MemoryServiceError as exc:
                raise failed(exc.detail) from None
        code = Exit.FINDINGS if done.damaged or done.unknown else Exit.PARTIAL if done.failed else Exit.DONE
        self.conclude(done.summary(), code)
