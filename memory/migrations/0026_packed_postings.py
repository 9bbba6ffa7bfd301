"""Postings as bytes, which are cut and sent as they stand."""

from django.db import migrations

from memory.migrations._sqlfile import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("memory", "0025_partition_reads")]
    operations = [RunSQLFile("0026_packed_postings")]
