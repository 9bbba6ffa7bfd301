"""Documents."""

from django.contrib.postgres.fields import ArrayField
from django.db import migrations, models

from memory.migrations._sqlfile import RunSQLFile

STATE = [
    migrations.CreateModel(
        name="Document",
        fields=[
            (
                "pk",
                models.CompositePrimaryKey(
                    "user_hash", "doc_id", blank=True, editable=False, primary_key=True, serialize=False
                ),
            ),
            ("user_hash", models.TextField(db_collation="C")),
            ("doc_id", models.TextField(db_collation="C")),
            ("source", models.TextField()),
            ("thread_id", models.TextField(null=True)),
            ("chunk_count", models.IntegerField()),
            ("char_count", models.IntegerField()),
            ("generation", models.IntegerField()),
            ("meta_cipher", models.BinaryField()),
            ("content_mac", models.BinaryField()),
            ("derived_from", ArrayField(base_field=models.TextField(), default=list, size=None)),
            ("created_at", models.DateTimeField()),
            ("updated_at", models.DateTimeField()),
        ],
        options={"db_table": "memory_documents", "managed": False},
    ),
]


class Migration(migrations.Migration):
    dependencies = [("memory", "0002_tenants")]
    operations = [RunSQLFile("0003_documents", STATE)]
