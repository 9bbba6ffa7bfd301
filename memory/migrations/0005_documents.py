"""Documents, and what each was made from."""

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
            ("source", models.TextField(db_collation="C")),
            ("thread_id", models.TextField(db_collation="C", null=True)),
            ("sequence", models.IntegerField(default=0)),
            ("chunk_count", models.IntegerField()),
            ("char_count", models.IntegerField()),
            ("generation", models.IntegerField()),
            ("speaker", models.IntegerField(null=True)),
            ("speaker_cipher", models.BinaryField(null=True)),
            ("meta_cipher", models.BinaryField()),
            ("content_mac", models.BinaryField()),
            ("created_at", models.DateTimeField()),
            ("expires_at", models.DateTimeField(null=True)),
            ("updated_at", models.DateTimeField()),
        ],
        options={"db_table": "memory_documents", "managed": False},
    ),
]


class Migration(migrations.Migration):
    dependencies = [("memory", "0004_keys")]
    operations = [RunSQLFile("0005_documents", STATE)]
