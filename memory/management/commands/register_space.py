"""manage.py register_space"""

import json

from django.core.management.base import CommandError

from memory.embedding.process import get_embedder
from memory.embedding.spaces import describe, register_space, renew_tenant_key_check
from memory.errors import MemoryServiceError
from memory.maintenance.command import ServiceCommand
from memory.models import Space


class Command(ServiceCommand):
    help = (
        "Load the embedding model, check its weights, and register model, chunking and protection as an embedding "
        "space; the first one becomes the active one. Repeatable. Exit 1 when another space is the active one."
    )

    def add_arguments(self, parser):
        parser.add_argument(
            "--if-none",
            action="store_true",
            help="do nothing where a space is active already: each worker compares its own model with it anyway",
        )

    def handle(self, *, if_none, **options):
        renew_tenant_key_check()
        if if_none and Space.objects.using("owner").filter(active=True).exists():
            return
        try:
            embedder = get_embedder()
            space, active = register_space(embedder)
        except MemoryServiceError as exc:
            raise CommandError(exc.detail, returncode=1) from None
        self.stdout.write(json.dumps({"space": space, "active": active, **describe(embedder)}))
        if not active:
            raise CommandError(
                f"the settings describe space {space}, but the stored chunks are in another one: "
                "restore the model and chunk settings they were made with",
                returncode=1,
            )
