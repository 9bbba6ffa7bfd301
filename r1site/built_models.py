"""The built forms of the models as the launcher finds them: looked at here, made by `manage.py build_models`."""

from __future__ import annotations

import json


def all_built() -> bool:
    """Whether every form stands that `build_models` would make, by digest; imports no model library, asks no network.

    False where that cannot be told, too: `build_models` then says why.
    """
    # Half a second of imports, which `stop` and `token` do without.
    from django.conf import settings

    from memory.embedding.process import configured_embedders
    from memory.retrieval.reranker_config import deployed_config
    from reranker.backends.built_form import has_weights, place_of
    from reranker.faults import LoadFailure

    models, reranks = settings.MEMORY_MODELS_DIR, deployed_config()
    try:
        return all(embedder.is_built(models) for embedder in configured_embedders()) and (
            not has_weights(reranks) or place_of(reranks, models).is_good()
        )
    except (LoadFailure, OSError):
        return False


def in_words(summary: str) -> str:
    """What `build_models` did, of the JSON document that it ended with."""
    return "; ".join(_of_one(each) for each in json.loads(summary)["models"])


def _of_one(each: dict) -> str:
    if each["built"] is None:
        return f"{each['model']} has no built form: torch runs it"
    if not each["built"]:
        return f"{each['model']} was built already"
    return f"{each['model']} built in {each['seconds']} s"
