"""Who said what, found by an index."""

from django.db import migrations

from memory.migrations._sqlfile import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("memory", "0012_metadata_views")]
    operations = [RunSQLFile("0013_speakers")]
