"""Idempotency keys and rate buckets."""

from django.db import migrations

from memory.migrations._sqlfile import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("memory", "0007_lexical")]
    operations = [RunSQLFile("0008_requests")]
