"""Users on their way into another space, or to another name."""

from django.db import migrations, models

from memory.migrations._sqlfile import RunSQLFile

STATE = [
    migrations.AlterField("space", "fingerprint", models.TextField()),
    migrations.AddField("space", "edition", models.SmallIntegerField(default=1)),
]


class Migration(migrations.Migration):
    dependencies = [("memory", "0015_rotation")]
    operations = [RunSQLFile("0016_moves", STATE)]
