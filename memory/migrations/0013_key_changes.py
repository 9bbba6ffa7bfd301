"""Counters that tell every process which opened data keys to forget."""

from django.db import migrations

from memory.migrations._sqlfile import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("memory", "0012_document_sources")]
    operations = [RunSQLFile("0013_key_changes")]
