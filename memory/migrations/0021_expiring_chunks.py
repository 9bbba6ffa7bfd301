"""A user's chunks that expire, by their time."""

from django.db import migrations

from memory.migrations._sqlfile import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("memory", "0017_own_indexes")]
    operations = [RunSQLFile("0021_expiring_chunks")]
