"""manage.py demo --url http://127.0.0.1:8123"""

from __future__ import annotations

from memory.maintenance.command import ServiceCommand, failed
from memory.maintenance.demo import DemoError, run_demo


class Command(ServiceCommand):
    help = (
        "Show the main job against a running service, over HTTP: index the long descriptions of the installed Python "
        "packages for alice and a few for bob, ask three questions, and ask them again as a stranger."
    )

    is_summarized = False

    def add_arguments(self, parser):
        parser.add_argument("--url", default="http://127.0.0.1:8123")

    def handle(self, *, url, **options):
        try:
            run_demo(url, say=self.stdout.write)
        except DemoError as exc:
            raise failed(str(exc)) from None
