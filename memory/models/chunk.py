"""Chunks: the passages that search finds."""

from django.db import models
from pgvector.django import HalfVectorField


class Chunk(models.Model):
    """One passage: sealed text, metadata and true vector, and the rotated vector that search orders by."""

    pk = models.CompositePrimaryKey("user_hash", "id")
    id = models.UUIDField()
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()
    quarantined_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    chunk_index = models.IntegerField()
    char_start = models.IntegerField()
    char_end = models.IntegerField()
    generation = models.IntegerField()
    sequence = models.IntegerField(default=0)
    speaker = models.IntegerField(null=True)
    space = models.SmallIntegerField()
    user_hash = models.TextField(db_collation="C")
    doc_id = models.TextField(db_collation="C")
    source = models.TextField(db_collation="C")
    thread_id = models.TextField(db_collation="C", null=True)
    embedding = HalfVectorField()
    text_cipher = models.BinaryField()
    meta_cipher = models.BinaryField()
    emb_cipher = models.BinaryField()

    class Meta:
        managed = False
        db_table = "memory_chunks"
