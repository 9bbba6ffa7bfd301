"""What staff may see."""

from django.db import migrations

from memory.migrations._sqlfile import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("memory", "0011_isolation")]
    operations = [RunSQLFile("0012_metadata_views")]
