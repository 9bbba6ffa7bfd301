"""Partitions are read by their own names, under the policy that their tables have."""

from django.db import migrations

from memory.migrations._sqlfile import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("memory", "0024_staff")]
    operations = [RunSQLFile("0025_partition_reads")]
