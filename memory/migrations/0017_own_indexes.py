"""A big user's own index, known in his row; and where the memtable begins."""

from django.db import migrations

from memory.migrations._sqlfile import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("memory", "0016_moves")]
    operations = [RunSQLFile("0017_own_indexes")]
