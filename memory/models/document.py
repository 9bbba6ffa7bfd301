"""Documents: what belongs to a text as a whole."""

from django.db import models


class Document(models.Model):
    """One document of one user, by the product's own `doc_id`."""

    pk = models.CompositePrimaryKey("user_hash", "doc_id")
    user_hash = models.TextField(db_collation="C")
    doc_id = models.TextField(db_collation="C")
    source = models.TextField()
    thread_id = models.TextField(null=True)
    chunk_count = models.IntegerField()
    char_count = models.IntegerField()
    generation = models.IntegerField()
    meta_cipher = models.BinaryField()
    content_mac = models.BinaryField()
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = "memory_documents"
