"""manage.py flag [NAME [VALUE | --clear]]"""

import json

from memory.maintenance.command import ServiceCommand, usage
from memory.rollout.flags import FLAGS, read_flags, set_flag


class Command(ServiceCommand):
    help = 'Show all flags, or set or clear one, on all workers within a second. VALUE is JSON: true, 250, "auto".'

    def add_arguments(self, parser):
        parser.add_argument("name", nargs="?", choices=sorted(FLAGS))
        parser.add_argument("value", nargs="?")
        parser.add_argument("--clear", action="store_true", help="back to the environment's default")

    def handle(self, *, name, value, clear, **options):
        if clear and value is not None:
            raise usage("give a value or --clear, not both")
        if value is not None or (name and clear):
            try:
                set_flag(name, None if clear else _parsed(value))
            except ValueError as exc:
                raise usage(str(exc)) from None
        present = read_flags()
        self.conclude({name: present[name]} if name else present)


def _parsed(value: str):
    try:
        return json.loads(value)
    except ValueError:
        return value
