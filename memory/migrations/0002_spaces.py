"""Embedding spaces."""

from django.db import migrations, models

from memory.migrations._sqlfile import RunSQLFile

STATE = [
    migrations.CreateModel(
        name="Space",
        fields=[
            ("space", models.SmallIntegerField(primary_key=True, serialize=False)),
            ("fingerprint", models.TextField(unique=True)),
            ("description", models.JSONField()),
            ("is_default", models.BooleanField(default=False)),
            ("tenant_key_check", models.BinaryField()),
            ("created_at", models.DateTimeField()),
        ],
        options={"db_table": "memory_spaces", "managed": False},
    ),
]


class Migration(migrations.Migration):
    dependencies = [("memory", "0001_guard")]
    operations = [RunSQLFile("0002_spaces", STATE)]
