"""Tenants and their sealed keys."""

from django.db import models


class Tenant(models.Model):
    """One user: named by the HMAC of the user id, which itself is stored sealed."""

    user_hash = models.TextField(db_collation="C", primary_key=True)
    profile = models.UUIDField()
    user_id_cipher = models.BinaryField()
    state = models.TextField(default="active")
    moved_to = models.TextField(db_collation="C", null=True)
    active_space = models.SmallIntegerField()
    generation = models.IntegerField(default=1)
    seal_count = models.BigIntegerField(default=0)
    document_count = models.BigIntegerField(default=0)
    chunk_count = models.BigIntegerField(default=0)
    indexed_space = models.SmallIntegerField(null=True)
    indexed_seals = models.BigIntegerField(null=True)
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
    seal_count = models.BigIntegerField(default=0)
    created_at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = "memory_data_keys"


class SearchKey(models.Model):
    """What rotates a user's vectors and blinds the terms in one space, sealed under the master key `key_id`."""

    pk = models.CompositePrimaryKey("user_hash", "space")
    space = models.SmallIntegerField()
    user_hash = models.TextField(db_collation="C")
    key_id = models.TextField()
    sealed_key = models.BinaryField()
    created_at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = "memory_search_keys"
