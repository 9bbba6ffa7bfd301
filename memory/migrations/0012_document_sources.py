"""What a document was made from, as indexed pairs in place of an array."""

from django.db import migrations

from memory.migrations._sqlfile import RunSQLFile

STATE = [migrations.RemoveField("document", "derived_from")]


class Migration(migrations.Migration):
    dependencies = [("memory", "0011_append_only_ledger")]
    operations = [RunSQLFile("0012_document_sources", STATE)]
