"""manage.py doctor [--endpoint URL]"""

from memory.maintenance.command import Exit, ServiceCommand
from memory.maintenance.diagnosis import document, is_fit, table
from memory.maintenance.doctor import examine


class Command(ServiceCommand):
    help = (
        "Look at everything that a deploy depends on: settings, database, isolation, migrations, keys, models, pool, "
        "clocks, disk, pending work; with --endpoint also a running service's health and metrics. All problems at "
        "once, as a table on stderr and one JSON document on stdout; exit 1 where one keeps from a deploy. Changes "
        "nothing."
    )

    def add_arguments(self, parser):
        parser.add_argument("--endpoint", help="a service that runs, such as http://127.0.0.1:8123")

    def handle(self, *, endpoint, **options):
        findings = examine(endpoint=endpoint)
        self.stderr.write(table(findings), style_func=str)
        self.conclude(document(findings), Exit.DONE if is_fit(findings) else Exit.FINDINGS)
