"""manage.py register_space"""

from memory.embedding import spaces
from memory.embedding.embedder import Embedder
from memory.embedding.process import configured_embedders
from memory.errors import MemoryServiceError
from memory.maintenance.command import Exit, ServiceCommand, failed
from memory.models import Space


class Command(ServiceCommand):
    requires_system_checks = "__all__"
    help = (
        "Load the embedding models, check their weights, and register each with chunking and protection as a "
        "space; the first one becomes the default for new users. Repeatable. Exit 1 when another space is the default."
    )

    def add_arguments(self, parser):
        parser.add_argument(
            "--if-none",
            action="store_true",
            help="do nothing where there is a default space already: each worker compares its own model with it anyway",
        )
        parser.add_argument(
            "--another",
            action="store_true",
            help="register the first model's space once more: whoever is moved there gets another search key",
        )
        parser.add_argument(
            "--default", action="store_true", dest="make_default", help="let new users begin in the first model's space"
        )

    def handle(self, *, if_none, another, make_default, **options):
        if if_none and Space.objects.using("owner").filter(is_default=True).exists():
            return
        try:
            first, *others = (
                _registered(embedder, another=another and not number)
                for number, embedder in enumerate(configured_embedders())
            )
        except MemoryServiceError as exc:
            raise failed(exc.detail) from None
        if make_default and not first["default"]:
            spaces.make_default(first["space"])
            first["default"] = True
        code = Exit.DONE
        if not first["default"]:
            self.stderr.write(
                f"the settings describe space {first['space']}, but new users begin in another one: restore the "
                "model and chunk settings that it was made with, or let them begin in this one with --default"
            )
            code = Exit.FINDINGS
        self.conclude({**first, "next": others[0]} if others else first, code)


def _registered(embedder: Embedder, *, another: bool) -> dict:
    embedder.load()
    space, is_default = spaces.register_space(embedder, another=another)
    return {"space": space, "default": is_default, **spaces.describe(embedder)}
