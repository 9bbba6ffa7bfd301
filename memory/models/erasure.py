"""The ledger of erasures."""

from django.db import models


class Erasure(models.Model):
    """One erasure of one user's memory; added to and never changed."""

    pk = models.CompositePrimaryKey("user_hash", "id")
    id = models.UUIDField()
    erased_at = models.DateTimeField()
    unrecoverable_after = models.DateTimeField()
    erased_documents = models.BigIntegerField()
    erased_chunks = models.BigIntegerField()
    user_hash = models.TextField(db_collation="C")

    class Meta:
        managed = False
        db_table = "memory_erasures"
