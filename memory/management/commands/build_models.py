"""manage.py build_models"""

import time

from django.conf import settings

from memory.embedding.build import Unexportable
from memory.embedding.process import configured_embedders
from memory.errors import MemoryServiceError
from memory.maintenance.command import ServiceCommand, failed
from reranker.faults import LoadFailure


class Command(ServiceCommand):
    help = (
        "Build the form of each embedding model that ONNX Runtime runs on a CPU, under MEMORY_MODELS_DIR, from weights "
        "whose digest is checked. At set-up or when an image is made; a worker never does. A good one is left alone. "
        "A model of another make has none (`built` is null): it runs on torch."
    )

    def add_arguments(self, parser):
        parser.add_argument("--force", action="store_true", help="build anew what is there")

    def handle(self, *, force, **options):
        models = settings.MEMORY_MODELS_DIR
        built: list[dict] = []
        for embedder in configured_embedders():
            started = time.monotonic()
            self.stderr.write(f"{embedder.model_name}: looking, building if need be")
            try:
                is_new = embedder.build(models, force=force)
            except Unexportable as exc:
                self.stderr.write(f"{embedder.model_name}: {exc.detail}")
                built.append({"model": embedder.model_name, "built": None})
            except (MemoryServiceError, LoadFailure) as exc:
                raise failed(exc.detail) from None
            else:
                seconds = round(time.monotonic() - started, 1)
                built.append({"model": embedder.model_name, "built": is_new, "seconds": seconds})
        self.conclude({"folder": str(models), "models": built})
