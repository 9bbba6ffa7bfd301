"""A user's chunks that expire, by their time."""

from django.db import migrations

from memory.migrations._sqlfile import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("memory", "0018_retired_keys")]
    operations = [RunSQLFile("0019_expiring_chunks")]
