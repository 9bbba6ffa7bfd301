"""Embedding spaces: which model, chunking and protection scheme a chunk was made with."""

from django.db import models


class Space(models.Model):
    """A small integer that stands for one way of making vectors; one answer never mixes two."""

    space = models.SmallIntegerField(primary_key=True)
    fingerprint = models.TextField()
    edition = models.SmallIntegerField(default=1)
    description = models.JSONField()
    is_default = models.BooleanField(default=False)
    tenant_key_check = models.BinaryField()
    created_at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = "memory_spaces"
