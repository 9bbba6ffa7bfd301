from django.apps import AppConfig
from django.db.backends.signals import connection_created
from django.db.models.signals import pre_migrate

import reranker


class MemoryConfig(AppConfig):
    name = "memory"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self):
        from memory import checks  # noqa: F401 - registers the checks and the halfvec dumper
        from memory.embedding import vectors as halfvec  # noqa: F401 - registers the checks and the halfvec dumper

        # Under every server, and in a shell: the settings reach it by the first call, whoever makes it.
        reranker.configure_lazily(_rerank_config)
        connection_created.connect(_count_refusals, dispatch_uid="memory.count_refusals")
        pre_migrate.connect(_refuse_former_schema, sender=self, dispatch_uid="memory.refuse_former_schema")


def _rerank_config() -> reranker.RerankConfig:
    from memory.retrieval.reranker_config import deployed_config

    return deployed_config()


def _count_refusals(connection, **kwargs):
    from memory.rls import counting_refusals

    if counting_refusals not in connection.execute_wrappers:
        connection.execute_wrappers.append(counting_refusals)


def _refuse_former_schema(using, **kwargs):
    from memory.migrations._former import refuse_former_schema

    refuse_former_schema(using)
