"""Idempotency keys, rate buckets, the ledger of erasures, and two indexes on documents."""

from django.db import migrations

from memory.migrations._sqlfile import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("memory", "0009_flags")]
    operations = [RunSQLFile("0010_requests")]
