"""What rotating keys needs to know: which worker holds which key, which master key wraps, which run is under way."""

from django.db import migrations

from memory.migrations._sqlfile import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("memory", "0014_speakers")]
    operations = [RunSQLFile("0015_rotation")]
