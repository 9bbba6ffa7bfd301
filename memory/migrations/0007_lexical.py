"""Blind terms of each chunk, for lexical search over sealed text."""

from django.db import migrations

from memory.migrations._sqlfile import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("memory", "0006_chunks")]
    operations = [RunSQLFile("0007_lexical")]
