"""The ledger of erasures."""

from django.db import migrations, models

from memory.migrations._sqlfile import RunSQLFile

STATE = [
    migrations.CreateModel(
        name="Erasure",
        fields=[
            (
                "pk",
                models.CompositePrimaryKey(
                    "user_hash", "id", blank=True, editable=False, primary_key=True, serialize=False
                ),
            ),
            ("id", models.UUIDField()),
            ("erased_at", models.DateTimeField()),
            ("unrecoverable_after", models.DateTimeField()),
            ("erased_documents", models.BigIntegerField()),
            ("erased_chunks", models.BigIntegerField()),
            ("user_hash", models.TextField(db_collation="C")),
        ],
        options={"db_table": "memory_erasures", "managed": False},
    ),
]


class Migration(migrations.Migration):
    dependencies = [("memory", "0008_requests")]
    operations = [RunSQLFile("0009_erasures", STATE)]
