"""Row-level security on every tenant table."""

from django.db import migrations

from memory.migrations._sqlfile import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("memory", "0010_flags")]
    operations = [RunSQLFile("0011_isolation")]
