"""FORCE row-level security, policies and grants on every tenant table and partition."""

from django.db import migrations

from memory.migrations._sqlfile import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("memory", "0004_chunks")]
    operations = [RunSQLFile("0005_isolation")]
