"""manage.py rotate_keys --status | --promote ID | --rewrap | --verify | --retire ID | --data [--user ID] [--clear]"""

from dataclasses import asdict

from django.db import connections

from memory.admission.pace import Pace
from memory.errors import InvalidUserId, KeyUnavailable, MemoryServiceError
from memory.keys.secret_files import SettingError
from memory.maintenance import master_keys
from memory.maintenance.advisory_lock import MAINT
from memory.maintenance.command import Exit, ServiceCommand, failed, usage
from memory.maintenance.data_keys import clear_old, rotate_all, rotate_one
from memory.maintenance.data_rotation import DataRotation, NoSuchUser
from memory.maintenance.key_status import key_status, status_table
from memory.maintenance.master_keys import Refused, Retired, Rewrapped, Verified
from memory.sealing.names import user_hash_of

# New data keys leave half of two cores to the service beside them; a user costs some rows more (LEAST_ROWS).
DATA_ROWS_A_SECOND = 500.0


class Command(ServiceCommand):
    help = (
        "Where each key stands, and its rotation step by step: add a master key to the settings, then --promote, "
        "--rewrap, --verify, --retire. --data gives users new data keys. Any step may be killed and run again. Exit "
        "1 when a step is refused, or something is to be seen to; 3 when another run is under way; 4 when the same "
        "step, run again, goes on."
    )
    lock = 0x5231_4B52  # "R1KR"
    stands_back = True

    def add_arguments(self, parser):
        steps = parser.add_mutually_exclusive_group(required=True)
        steps.add_argument("--status", action="store_true", help="where each key stands; changes nothing")
        steps.add_argument(
            "--promote", metavar="ID", help="let this master key wrap new keys, once every worker has it"
        )
        steps.add_argument("--rewrap", action="store_true", help="wrap all users' keys anew under what wraps now")
        steps.add_argument("--verify", action="store_true", help="open every wrapped key, and look what it is under")
        steps.add_argument("--retire", metavar="ID", help="declare that nothing needs this master key any more")
        steps.add_argument("--data", action="store_true", help="give users new data keys and seal all they have anew")
        parser.add_argument("--user", metavar="USER_ID", help="with --data: one user alone")
        parser.add_argument(
            "--clear", action="store_true", help="with --data: only clear old data keys away; nobody gets a new one"
        )
        parser.add_argument(
            "--new-run", action="store_true", help="with --data: new keys for all, also where a run has not ended"
        )
        parser.add_argument("--table", action="store_true", help="with --status: a table for a person, on stderr")
        parser.add_argument(
            "--rate", type=float, metavar="N",
            help="at most N keys or rows a second, 0: as many as go; default 0, and 500 with --data",
        )  # fmt: skip
        parser.add_argument(
            "--without-backups",
            action="store_true",
            help="with --retire: do not wait until the backups of keys from before have expired",
        )
        parser.add_argument("--dry-run", action="store_true", help="only count, or say whether it would be refused")

    def handle(self, *, status, promote, rewrap, verify, retire, data, user, table, rate, clear, new_run,
               without_backups, dry_run, **options):  # fmt: skip
        if rate is not None and rate < 0:
            raise usage("--rate must not be negative")
        for key_id in (promote, retire):
            if key_id is not None and not key_id.strip():
                raise usage("a master key's id must not be empty")
        is_promotion, is_retirement = promote is not None, retire is not None
        for name, is_given, fits in (
            ("--user", user is not None, data), ("--clear", clear, data), ("--new-run", new_run, data),
            ("--table", table, status), ("--rate", rate is not None, rewrap or verify or data),
            ("--without-backups", without_backups, is_retirement),
            ("--dry-run", dry_run, is_promotion or rewrap or is_retirement or data),
        ):  # fmt: skip
            if is_given and not fits:
                raise usage(f"{name} does not go with this step")
        if new_run and (clear or user is not None):
            raise usage("--new-run goes neither with --user nor with --clear")
        pace = Pace(rate if rate is not None else DATA_ROWS_A_SECOND if data else 0.0)
        try:
            if status:
                self._status(table)
                return
            with self.alone() as connection:
                if is_promotion:
                    summary, code = master_keys.promote(connection, promote, dry_run=dry_run), Exit.DONE
                elif rewrap:
                    summary, code = self._rewrap(connection, pace, dry_run)
                elif verify:
                    summary, code = self._verify(connection, pace)
                elif data:
                    summary, code = self._data(connection, user, pace, clear=clear, new_run=new_run, dry_run=dry_run)
                else:
                    retired = Retired(retire, dry_run)
                    master_keys.retire(connection, retired, without_backups=without_backups)
                    summary, code = retired.summary(), Exit.DONE
        except Refused as exc:
            raise failed(str(exc)) from None
        except MemoryServiceError as exc:
            raise failed(f"{exc.detail} `rotate_keys --status` shows which key is missing where.") from None
        except SettingError as exc:
            raise failed(str(exc)) from None
        self.conclude(summary, code)

    def _status(self, table):
        connection = connections[MAINT]
        try:
            found = key_status(connection)
        finally:
            connection.close()
        if table:
            self.stderr.write(status_table(found))
        self.conclude(found, Exit.FINDINGS if found["findings"] else Exit.DONE, indent=2)

    def _rewrap(self, connection, pace, dry_run):
        done = Rewrapped(dry_run=dry_run)
        self.work(lambda: asdict(done))
        try:
            master_keys.rewrap(connection, done, progress=self.progress, pace=pace)
        except KeyUnavailable:
            # Before there is anything to do that is a refusal.
            if not done.left:
                raise
            left = max(0, done.left - done.done)
            return {**asdict(done), "left": left, "key_unavailable": True}, Exit.PARTIAL
        if dry_run or not done.left:
            return asdict(done), Exit.DONE
        # What does not open will not by itself, however often this runs.
        does_not_open = done.damaged + done.unavailable
        return asdict(done), Exit.FINDINGS if done.left <= does_not_open else Exit.PARTIAL

    def _verify(self, connection, pace):
        found = Verified()
        self.work(lambda: asdict(found))
        master_keys.verify(connection, found, progress=self.progress, pace=pace)
        is_whole = not (found.elsewhere or found.damaged or found.unavailable)
        return asdict(found), Exit.DONE if is_whole else Exit.FINDINGS

    def _data(self, connection, user, pace, *, clear, new_run, dry_run):
        done = DataRotation(dry_run=dry_run)
        self.work(done.summary)
        user_hash = None if user is None else _hash_of(user)
        try:
            if clear:
                clear_old(connection, user_hash, done, progress=self.progress, pace=pace)
            elif user_hash is None:
                rotate_all(connection, done, new_run=new_run, progress=self.progress, pace=pace)
            else:
                rotate_one(connection, user_hash, done, progress=self.progress, pace=pace)
        except NoSuchUser:
            raise usage("no such user") from None
        code = Exit.DONE if done.is_done else Exit.PARTIAL if done.goes_on else Exit.FINDINGS
        return done.summary(), code


def _hash_of(user_id):
    try:
        return user_hash_of(user_id)
    except InvalidUserId as exc:
        raise usage(exc.detail) from None
