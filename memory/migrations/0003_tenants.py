"""Tenants."""

from django.db import migrations, models

from memory.migrations._sqlfile import RunSQLFile

STATE = [
    migrations.CreateModel(
        name="Tenant",
        fields=[
            ("user_hash", models.TextField(db_collation="C", primary_key=True, serialize=False)),
            ("profile", models.UUIDField()),
            ("user_id_cipher", models.BinaryField()),
            ("state", models.TextField(default="active")),
            ("moved_to", models.TextField(db_collation="C", null=True)),
            ("active_space", models.SmallIntegerField()),
            ("generation", models.IntegerField(default=1)),
            ("seal_count", models.BigIntegerField(default=0)),
            ("document_count", models.BigIntegerField(default=0)),
            ("chunk_count", models.BigIntegerField(default=0)),
            ("created_at", models.DateTimeField()),
            ("updated_at", models.DateTimeField()),
        ],
        options={"db_table": "memory_tenants", "managed": False},
    ),
]


class Migration(migrations.Migration):
    dependencies = [("memory", "0002_spaces")]
    operations = [RunSQLFile("0003_tenants", STATE)]
