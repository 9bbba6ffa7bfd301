"""manage.py demo --url http://127.0.0.1:8123"""

from __future__ import annotations

from memory.maintenance.command import ServiceCommand, failed
from memory.maintenance.demo import DemoError, index_rest, run_demo


class Command(ServiceCommand):
    help = (
        "Show the main job against a running service, over HTTP: index the long descriptions of some installed Python "
        "packages for alice and a few for bob, ask three questions, and ask them again as a stranger. With --rest "
        "index the other packages' for alice instead."
    )

    is_summarized = False

    def add_arguments(self, parser):
        parser.add_argument("--url", default="http://127.0.0.1:8123")
        parser.add_argument("--rest", action="store_true", help="index what the questions do without; resumable")

    def handle(self, *, url, rest, **options):
        try:
            (index_rest if rest else run_demo)(url, self.stdout.write, self.progress)
        except DemoError as exc:
            raise failed(str(exc)) from None
        except OSError as exc:
            raise failed(f"the service at {url} does not answer: {exc}") from None
