"""No user's key is written under a master key that was retired."""

from django.db import migrations

from memory.migrations._sqlfile import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("memory", "0017_own_indexes")]
    operations = [RunSQLFile("0018_retired_keys")]
