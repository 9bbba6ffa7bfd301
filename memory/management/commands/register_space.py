"""manage.py register_space"""

from memory.embedding.embedder import Embedder
from memory.embedding.process import configured_embedders
from memory.embedding.spaces import describe, register_space
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

    def handle(self, *, if_none, **options):
        if if_none and Space.objects.using("owner").filter(is_default=True).exists():
            return
        try:
            spaces = [_registered(embedder) for embedder in configured_embedders()]
        except MemoryServiceError as exc:
            raise failed(exc.detail) from None
        first, *others = spaces
        code = Exit.DONE
        if not first["default"]:
            self.stderr.write(
                f"the settings describe space {first['space']}, but new users begin in another one: "
                "restore the model and chunk settings that it was made with"
            )
            code = Exit.FINDINGS
        self.conclude({**first, "next": others[0]} if others else first, code)


def _registered(embedder: Embedder) -> dict:
    embedder.load()
    space, is_default = register_space(embedder)
    return {"space": space, "default": is_default, **describe(embedder)}
