"""What staff sees: metadata through views, and tables without tenant data. Read on the alias `staff`, as r1_staff.

A row of a view is named by one column, `key`, made of the columns of its table's primary key, joined by dots.
Longer than 250 lines on purpose: one class a view, column by column.
"""

from django.db import models


class StaffModel(models.Model):
    """Of no table of Django's; every query goes to the alias `staff` (r1site/settings/databases.py)."""

    is_for_staff = True

    class Meta:
        abstract = True
        managed = False
        default_permissions = ("view",)


class TenantMeta(StaffModel):
    """One user, by the HMAC of his id; the id itself is in no view."""

    user_hash = models.TextField("user hash", db_collation="C", primary_key=True)
    state = models.TextField()
    moved_to = models.TextField(db_collation="C", null=True)
    active_space = models.SmallIntegerField("space")
    generation = models.IntegerField()
    seal_count = models.BigIntegerField("seals")
    document_count = models.BigIntegerField("documents")
    chunk_count = models.BigIntegerField("chunks")
    created_at = models.DateTimeField("began")
    updated_at = models.DateTimeField("changed")

    class Meta(StaffModel.Meta):
        db_table = "memory_tenants_meta"
        verbose_name = "tenant"
        permissions = [("find_tenant", "Can find a tenant by user id"), ("erase_tenant", "Can erase a tenant's memory")]

    def __str__(self):
        return self.user_hash


class DocumentMeta(StaffModel):
    """One document, without its metadata, which is sealed."""

    key = models.TextField(db_collation="C", primary_key=True)
    user_hash = models.TextField("user hash", db_collation="C")
    doc_id = models.TextField("document", db_collation="C")
    source = models.TextField(db_collation="C")
    thread_id = models.TextField("thread", db_collation="C", null=True)
    sequence = models.IntegerField()
    chunk_count = models.IntegerField("chunks")
    char_count = models.IntegerField("characters")
    generation = models.IntegerField()
    meta_cipher_bytes = models.IntegerField("sealed metadata, bytes")
    has_speaker = models.BooleanField("has a speaker")
    derived_from_count = models.IntegerField("derived from, documents")
    created_at = models.DateTimeField("created")
    expires_at = models.DateTimeField("expires", null=True)
    updated_at = models.DateTimeField("written")

    class Meta(StaffModel.Meta):
        db_table = "memory_documents_meta"
        verbose_name = "document"

    def __str__(self):
        return self.doc_id


class ChunkMeta(StaffModel):
    """One passage, without text and vectors."""

    key = models.TextField(db_collation="C", primary_key=True)
    user_hash = models.TextField("user hash", db_collation="C")
    id = models.UUIDField()
    space = models.SmallIntegerField()
    doc_id = models.TextField("document", db_collation="C")
    chunk_index = models.IntegerField("chunk")
    source = models.TextField(db_collation="C")
    thread_id = models.TextField("thread", db_collation="C", null=True)
    sequence = models.IntegerField()
    char_start = models.IntegerField("from character")
    char_end = models.IntegerField("to character")
    generation = models.IntegerField()
    text_cipher_bytes = models.IntegerField("sealed text, bytes")
    meta_cipher_bytes = models.IntegerField("sealed metadata, bytes")
    quarantined_at = models.DateTimeField("quarantined", null=True)
    created_at = models.DateTimeField("created")
    expires_at = models.DateTimeField("expires", null=True)
    updated_at = models.DateTimeField("written")

    class Meta(StaffModel.Meta):
        db_table = "memory_chunks_meta"
        verbose_name = "chunk"
        permissions = [("quarantine_chunk", "Can quarantine and release chunks")]

    def __str__(self):
        return f"{self.doc_id}, chunk {self.chunk_index}"


class DataKeyMeta(StaffModel):
    """One generation of a user's data key, without the key."""

    key = models.TextField(db_collation="C", primary_key=True)
    user_hash = models.TextField("user hash", db_collation="C")
    generation = models.IntegerField()
    key_id = models.TextField("wrapped by")
    seal_count = models.BigIntegerField("seals")
    created_at = models.DateTimeField("made")

    class Meta(StaffModel.Meta):
        db_table = "memory_data_keys_meta"
        verbose_name = "data key"

    def __str__(self):
        return f"generation {self.generation}"


class MoveMeta(StaffModel):
    """One user who is being moved to another space or name."""

    user_hash = models.TextField("user hash", db_collation="C", primary_key=True)
    target_hash = models.TextField("to the hash", db_collation="C")
    from_space = models.SmallIntegerField()
    space = models.SmallIntegerField("to space")
    state = models.TextField()
    started_at = models.DateTimeField("began")
    switched_at = models.DateTimeField("switched", null=True)

    class Meta(StaffModel.Meta):
        db_table = "memory_moves_meta"
        verbose_name = "move"

    def __str__(self):
        return self.user_hash


class ErasureMeta(StaffModel):
    """One line of the ledger of erasures."""

    key = models.TextField(db_collation="C", primary_key=True)
    user_hash = models.TextField("user hash", db_collation="C")
    id = models.UUIDField()
    erased_at = models.DateTimeField("erased")
    unrecoverable_after = models.DateTimeField()
    erased_documents = models.BigIntegerField("documents")
    erased_chunks = models.BigIntegerField("chunks")

    class Meta(StaffModel.Meta):
        db_table = "memory_erasures_meta"
        verbose_name = "erasure"

    def __str__(self):
        return str(self.id)


class MasterKey(StaffModel):
    """One master key that was promoted or retired, by its id."""

    key_id = models.TextField("key", primary_key=True)
    fingerprint = models.TextField(null=True)
    promoted_at = models.DateTimeField("promoted", null=True)
    unused_since = models.DateTimeField(null=True)
    retired_at = models.DateTimeField("retired", null=True)

    class Meta(StaffModel.Meta):
        db_table = "memory_master_keys"
        verbose_name = "master key"

    def __str__(self):
        return self.key_id


class Worker(StaffModel):
    """What one process of the service said last of itself: which keys it holds."""

    worker_id = models.UUIDField("worker", primary_key=True)
    host = models.TextField()
    pid = models.IntegerField("process")
    version = models.TextField()
    started_at = models.DateTimeField("started")
    seen_at = models.DateTimeField("seen")
    master_keys = models.JSONField()
    hmac_keys = models.JSONField()
    active_master_key = models.TextField("wraps with", null=True)
    active_hmac_key = models.TextField("names by", null=True)

    class Meta(StaffModel.Meta):
        db_table = "memory_workers"
        verbose_name = "worker"

    def __str__(self):
        return f"{self.host}, process {self.pid}"


class Rollout(StaffModel):
    """One canary run."""

    id = models.UUIDField(primary_key=True)
    state = models.TextField()
    stage = models.SmallIntegerField("stage, percent")
    percent = models.SmallIntegerField("now, percent")
    began = models.DateTimeField()
    stage_began = models.DateTimeField()
    ended = models.DateTimeField(null=True)
    verdict = models.TextField(null=True)
    reasons = models.JSONField()
    request = models.TextField("asked for", null=True)
    evidence = models.TextField("folder of evidence")
    forced = models.TextField("forced because")

    class Meta(StaffModel.Meta):
        db_table = "memory_rollouts"
        verbose_name = "rollout"

    def __str__(self):
        return str(self.id)


class AuditLine(StaffModel):
    """Who changed what; each line's hash is over the one before it."""

    id = models.BigIntegerField("line", primary_key=True)
    at = models.DateTimeField()
    actor = models.TextField()
    action = models.TextField()
    subject = models.TextField()
    detail = models.JSONField()
    previous_hash = models.BinaryField()
    hash = models.BinaryField()

    class Meta(StaffModel.Meta):
        db_table = "memory_audit"
        verbose_name = "line of the audit log"
        verbose_name_plural = "audit log"

    def __str__(self):
        return f"{self.id}: {self.action}"


# Tables that the service reads too, as r1_app; here as staff sees them.


class StaffFlag(StaffModel):
    """One setting that was changed at run time."""

    name = models.TextField(primary_key=True)
    value = models.JSONField()
    updated_at = models.DateTimeField("changed")

    class Meta(StaffModel.Meta):
        db_table = "memory_flags"
        verbose_name = "flag"
        permissions = [("set_flag", "Can set and clear flags")]

    def __str__(self):
        return self.name


class StaffSpace(StaffModel):
    """One way of making vectors, without the check of the HMAC key."""

    space = models.SmallIntegerField(primary_key=True)
    fingerprint = models.TextField()
    edition = models.SmallIntegerField()
    description = models.JSONField()
    is_default = models.BooleanField("default")
    created_at = models.DateTimeField("registered")

    class Meta(StaffModel.Meta):
        db_table = "memory_spaces"
        verbose_name = "embedding space"

    def __str__(self):
        return f"space {self.space}"
