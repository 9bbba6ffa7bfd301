"""manage.py flags list | set NAME VALUE | clear NAME"""

import json

from memory.maintenance.command import ServiceCommand, actor_name, usage
from memory.rollout.flags import FLAGS, read_flags, set_flag


class Command(ServiceCommand):
    help = 'Show all flags, or set or clear one, on all workers within a second. VALUE is JSON: true, 250, "auto".'

    def add_arguments(self, parser):
        actions = parser.add_subparsers(dest="action", metavar="list|set|clear")
        actions.add_parser("list", help="every flag's present value; also without a word")
        to_set = actions.add_parser("set", help="from now on this value, whatever the environment says")
        to_set.add_argument("name", choices=sorted(FLAGS), metavar="NAME")
        to_set.add_argument("value", metavar="VALUE")
        actions.add_parser("clear", help="back to the environment's default").add_argument(
            "name", choices=sorted(FLAGS), metavar="NAME"
        )

    def handle(self, *, action=None, name=None, value=None, **options):
        if action in ("set", "clear"):
            try:
                set_flag(name, _parsed(value) if action == "set" else None, actor=actor_name())
            except ValueError as exc:
                raise usage(str(exc)) from None
        present = read_flags()
        self.conclude({name: present[name]} if name else present)


def _parsed(value: str):
    try:
        parsed = json.loads(value)
    except ValueError:
        return value
    # None would clear it.
    return value if parsed is None else parsed
