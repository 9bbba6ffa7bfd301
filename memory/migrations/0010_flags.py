"""Settings that change at run time."""

from django.db import migrations, models

from memory.migrations._sqlfile import RunSQLFile

STATE = [
    migrations.CreateModel(
        name="Flag",
        fields=[
            ("name", models.TextField(primary_key=True, serialize=False)),
            ("value", models.JSONField()),
            ("updated_at", models.DateTimeField()),
        ],
        options={"db_table": "memory_flags", "managed": False},
    ),
]


class Migration(migrations.Migration):
    dependencies = [("memory", "0009_erasures")]
    operations = [RunSQLFile("0010_flags", STATE)]
