"""Who changed what, in a chain of hashes."""

from django.db import migrations

from memory.migrations._sqlfile import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("memory", "0022_rollouts")]
    operations = [RunSQLFile("0023_audit")]
