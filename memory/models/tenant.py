"""Tenants and their sealed data keys."""

from django.db import models


class Tenant(models.Model):
    """One user: named by the HMAC of the user id, which itself is stored sealed."""

    user_hash = models.TextField(primary_key=True, db_collation="C")
    user_id_cipher = models.BinaryField()
    state = models.TextField(default="active")
    moved_to = models.TextField(null=True, db_collation="C")
    generation = models.IntegerField(default=1)
    document_count = models.BigIntegerField(default=0)
    chunk_count = models.BigIntegerField(default=0)
    seal_count = models.BigIntegerField(default=0)
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = "memory_tenants"


class DataKey(models.Model):
    """One generation of a user's data key, sealed under the master key `key_id`."""

    pk = models.CompositePrimaryKey("user_hash", "generation")
    user_hash = models.TextField(db_collation="C")
    generation = models.IntegerField()
    key_id = models.TextField()
    sealed_key = models.BinaryField()
    created_at = models.DateTimeField()
    retired_at = models.DateTimeField(null=True)

    class Meta:
        managed = False
        db_table = "memory_data_keys"
