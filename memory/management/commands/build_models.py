"""manage.py build_models"""

import time
from collections.abc import Callable
from functools import partial

from django.conf import settings

from memory.embedding.build import Unexportable
from memory.embedding.process import configured_embedders
from memory.errors import MemoryServiceError
from memory.maintenance.command import ServiceCommand, failed
from memory.retrieval.reranker_config import deployed_config
from reranker.backends import build as cross_encoder_form
from reranker.backends.built_form import has_weights
from reranker.faults import LoadFailure


class Command(ServiceCommand):
    help = (
        "Build the form of each model that OpenVINO or ONNX Runtime runs on a CPU, under MEMORY_MODELS_DIR, from "
        "weights whose digest is checked: of the embedding models, and of the cross-encoder where its weights are "
        "here, which are not fetched for it. At set-up or when an image is made; a worker never does. A good one is "
        "left alone. A model of another make has none (`built` is null): it runs on torch."
    )

    def add_arguments(self, parser):
        parser.add_argument("--force", action="store_true", help="build anew what is there")

    def handle(self, *, force, **options):
        models = settings.MEMORY_MODELS_DIR
        built = [
            self._built(embedder.model_name, partial(embedder.build, models, force=force))
            for embedder in configured_embedders()
        ]
        reranks = deployed_config()
        if has_weights(reranks):
            built.append(self._built(reranks.model, partial(cross_encoder_form.build, reranks, models, force=force)))
        else:
            self.stderr.write(f"{reranks.model}: its weights are not here, so nothing is built of it")
        self.conclude({"folder": str(models), "models": built})

    def _built(self, name: str, build: Callable[[], bool]) -> dict:
        started = time.monotonic()
        self.stderr.write(f"{name}: looking, building if need be")
        try:
            is_new = build()
        except (Unexportable, cross_encoder_form.Unexportable) as exc:
            self.stderr.write(f"{name}: {exc.detail}")
            return {"model": name, "built": None}
        except (MemoryServiceError, LoadFailure) as exc:
            raise failed(exc.detail) from None
        return {"model": name, "built": is_new, "seconds": round(time.monotonic() - started, 1)}
