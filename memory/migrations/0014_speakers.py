"""Who said what, found by an index."""

from django.db import migrations

from memory.migrations._sqlfile import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("memory", "0013_documents_by_source")]
    operations = [RunSQLFile("0014_speakers")]
