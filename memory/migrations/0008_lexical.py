"""Blind terms of each chunk, for lexical search over sealed text."""

from django.db import migrations

from memory.migrations._sqlfile import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("memory", "0007_metadata_views")]
    operations = [RunSQLFile("0008_lexical")]
