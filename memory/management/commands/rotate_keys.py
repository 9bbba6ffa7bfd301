"""manage.py rotate_keys --status | --promote ID | --rewrap | --verify | --retire ID | --data [--user ID]"""

from dataclasses import asdict

from django.db import connections

from memory.errors import InvalidUserId, MemoryServiceError
from memory.keys.secret_files import SettingError
from memory.maintenance import master_keys
from memory.maintenance.advisory_lock import MAINT
from memory.maintenance.command import Exit, ServiceCommand, failed, usage
from memory.maintenance.data_keys import DataRotation, rotate_all, rotate_one
from memory.maintenance.key_status import key_status, status_table
from memory.maintenance.master_keys import Refused, Retired, Rewrapped, Verified
from memory.maintenance.pace import Pace
from memory.security import hmac_user


class Command(ServiceCommand):
    help = (
        "Where each key stands, and its rotation step by step: add a master key to the settings, then --promote, "
        "--rewrap, --verify, --retire. --data gives users new data keys. Any step may be killed and run again. Exit "
        "1 when a step is refused, or something is to be seen to; 3 when another run is under way; 4 when not all of "
        "it is done."
    )
    lock = 0x5231_4B52  # "R1KR"

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
        parser.add_argument("--table", action="store_true", help="with --status: a table for a person, on stderr")
        parser.add_argument("--rate", type=float, default=0.0, metavar="N", help="at most N keys or rows a second")
        parser.add_argument(
            "--without-backups",
            action="store_true",
            help="with --retire: do not wait until the backups of keys from before have expired",
        )
        parser.add_argument("--dry-run", action="store_true", help="only count, or say whether it would be refused")

    def handle(self, *, status, promote, rewrap, verify, retire, data, user, table, rate, without_backups, dry_run,
               **options):  # fmt: skip
        if rate < 0:
            raise usage("--rate must not be negative")
        if user is not None and not data:
            raise usage("--user goes with --data")
        pace = Pace(rate)
        try:
            if status:
                self._status(table)
                return
            with self.alone() as connection:
                if promote:
                    summary, code = master_keys.promote(connection, promote, dry_run=dry_run), Exit.DONE
                elif rewrap:
                    summary, code = self._rewrap(connection, pace, dry_run)
                elif verify:
                    summary, code = self._verify(connection, pace)
                elif data:
                    summary, code = self._data(connection, user, pace, dry_run)
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
        master_keys.rewrap(connection, done, progress=self.progress, pace=pace)
        return asdict(done), Exit.PARTIAL if done.left and not dry_run else Exit.DONE

    def _verify(self, connection, pace):
        found = Verified()
        self.work(lambda: asdict(found))
        master_keys.verify(connection, found, progress=self.progress, pace=pace)
        is_whole = not (found.elsewhere or found.damaged or found.unavailable)
        return asdict(found), Exit.DONE if is_whole else Exit.FINDINGS

    def _data(self, connection, user, pace, dry_run):
        done = DataRotation(dry_run=dry_run)
        self.work(lambda: asdict(done))
        if user is None:
            rotate_all(connection, done, progress=self.progress, pace=pace)
        else:
            rotate_one(_hash_of(user), done, progress=self.progress, pace=pace)
        return asdict(done), Exit.DONE if done.is_done else Exit.PARTIAL


def _hash_of(user_id):
    try:
        return hmac_user(user_id)
    except InvalidUserId as exc:
        raise usage(exc.detail) from None
