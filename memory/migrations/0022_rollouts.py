"""The state of canary runs."""

from django.db import migrations

from memory.migrations._sqlfile import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("memory", "0019_expiring_chunks")]
    operations = [RunSQLFile("0022_rollouts")]
