"""Tenants and their sealed data keys."""

from django.db import migrations, models

from memory.migrations._sqlfile import RunSQLFile

STATE = [
    migrations.CreateModel(
        name="Tenant",
        fields=[
            ("user_hash", models.TextField(db_collation="C", primary_key=True, serialize=False)),
            ("user_id_cipher", models.BinaryField()),
            ("state", models.TextField(default="active")),
            ("moved_to", models.TextField(db_collation="C", null=True)),
            ("generation", models.IntegerField(default=1)),
            ("document_count", models.BigIntegerField(default=0)),
            ("chunk_count", models.BigIntegerField(default=0)),
            ("seal_count", models.BigIntegerField(default=0)),
            ("created_at", models.DateTimeField()),
            ("updated_at", models.DateTimeField()),
        ],
        options={"db_table": "memory_tenants", "managed": False},
    ),
    migrations.CreateModel(
        name="DataKey",
        fields=[
            (
                "pk",
                models.CompositePrimaryKey(
                    "user_hash", "generation", blank=True, editable=False, primary_key=True, serialize=False
                ),
            ),
            ("user_hash", models.TextField(db_collation="C")),
            ("generation", models.IntegerField()),
            ("key_id", models.TextField()),
            ("sealed_key", models.BinaryField()),
            ("created_at", models.DateTimeField()),
            ("retired_at", models.DateTimeField(null=True)),
        ],
        options={"db_table": "memory_data_keys", "managed": False},
    ),
]


class Migration(migrations.Migration):
    dependencies = [("memory", "0001_guard")]
    operations = [RunSQLFile("0002_tenants", STATE)]
