"""What is left of a destroyed data key can be cleared away by the service, and never is in the statistics."""

from django.db import migrations

from memory.migrations._sqlfile import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("memory", "0013_key_changes")]
    operations = [RunSQLFile("0014_data_key_remains")]
