"""Chunks: the passages that search finds."""

from django.db import models
from pgvector.django import HalfVectorField

EMBEDDING_DIMENSION = 384


class Chunk(models.Model):
    """One passage: sealed text, metadata and true vector, and the rotated vector that search orders by."""

    pk = models.CompositePrimaryKey("user_hash", "id")
    id = models.UUIDField()
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()
    quarantined_at = models.DateTimeField(null=True)
    chunk_index = models.IntegerField()
    char_start = models.IntegerField()
    char_end = models.IntegerField()
    generation = models.IntegerField()
    space = models.SmallIntegerField()
    user_hash = models.TextField(db_collation="C")
    doc_id = models.TextField(db_collation="C")
    source = models.TextField()
    thread_id = models.TextField(null=True)
    embedding = HalfVectorField(dimensions=EMBEDDING_DIMENSION)
    text_cipher = models.BinaryField()
    meta_cipher = models.BinaryField()
    emb_cipher = models.BinaryField()

    class Meta:
        managed = False
        db_table = "memory_chunks"
