"""manage.py staging_report DIR"""

from pathlib import Path

from memory.maintenance.command import ServiceCommand, usage
from memory.rollout.evidence import read_evidence
from memory.rollout.report import write_report


class Command(ServiceCommand):
    help = "Write report.html and staging_report.md into a folder of evidence that a canary run left. Asks no database."

    def add_arguments(self, parser):
        parser.add_argument("folder", type=Path, metavar="DIR")

    def handle(self, *, folder: Path, **options):
        try:
            paths = write_report(folder)
        except NotADirectoryError:
            raise usage(f"there is no folder {folder}") from None
        except OSError as exc:
            raise usage(f"the folder cannot be written: {exc.strerror}") from None
        found = read_evidence(folder)
        self.conclude(
            {
                "written": [str(path) for path in paths],
                "verdict": found.decision.get("verdict"),
                "snapshots": len(found.snapshots),
                "missing": found.missing,
                "damaged": found.damaged,
            },
            indent=2,
        )
