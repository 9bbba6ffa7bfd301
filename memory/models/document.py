"""Documents: what belongs to a text as a whole."""

from django.db import models


class Document(models.Model):
    """One document of one user, by the product's own `doc_id`."""

    pk = models.CompositePrimaryKey("user_hash", "doc_id")
    user_hash = models.TextField(db_collation="C")
    doc_id = models.TextField(db_collation="C")
    source = models.TextField(db_collation="C")
    thread_id = models.TextField(db_collation="C", null=True)
    sequence = models.IntegerField(default=0)
    chunk_count = models.IntegerField()
    char_count = models.IntegerField()
    generation = models.IntegerField()
    speaker = models.IntegerField(null=True)
    speaker_cipher = models.BinaryField(null=True)
    meta_cipher = models.BinaryField()
    content_mac = models.BinaryField()
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = "memory_documents"
