"""Chunks: 64 hash partitions, laid out so that an exact search reads no TOAST."""

from django.db import migrations, models
from pgvector.django import HalfVectorField

from memory.migrations._sqlfile import RunSQLFile

STATE = [
    migrations.CreateModel(
        name="Chunk",
        fields=[
            (
                "pk",
                models.CompositePrimaryKey(
                    "user_hash", "id", blank=True, editable=False, primary_key=True, serialize=False
                ),
            ),
            ("id", models.UUIDField()),
            ("created_at", models.DateTimeField()),
            ("updated_at", models.DateTimeField()),
            ("quarantined_at", models.DateTimeField(null=True)),
            ("expires_at", models.DateTimeField(null=True)),
            ("chunk_index", models.IntegerField()),
            ("char_start", models.IntegerField()),
            ("char_end", models.IntegerField()),
            ("generation", models.IntegerField()),
            ("sequence", models.IntegerField(default=0)),
            ("speaker", models.IntegerField(null=True)),
            ("space", models.SmallIntegerField()),
            ("user_hash", models.TextField(db_collation="C")),
            ("doc_id", models.TextField(db_collation="C")),
            ("source", models.TextField(db_collation="C")),
            ("thread_id", models.TextField(db_collation="C", null=True)),
            ("embedding", HalfVectorField()),
            ("text_cipher", models.BinaryField()),
            ("meta_cipher", models.BinaryField()),
            ("emb_cipher", models.BinaryField()),
        ],
        options={"db_table": "memory_chunks", "managed": False},
    ),
]


class Migration(migrations.Migration):
    dependencies = [("memory", "0005_documents")]
    operations = [RunSQLFile("0006_chunks", STATE)]
