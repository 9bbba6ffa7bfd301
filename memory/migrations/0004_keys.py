"""Users' sealed keys, and the counters that tell every process which opened ones to forget."""

from django.db import migrations, models

from memory.migrations._sqlfile import RunSQLFile

STATE = [
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
            ("seal_count", models.BigIntegerField(default=0)),
            ("created_at", models.DateTimeField()),
        ],
        options={"db_table": "memory_data_keys", "managed": False},
    ),
    migrations.CreateModel(
        name="SearchKey",
        fields=[
            (
                "pk",
                models.CompositePrimaryKey(
                    "user_hash", "space", blank=True, editable=False, primary_key=True, serialize=False
                ),
            ),
            ("space", models.SmallIntegerField()),
            ("user_hash", models.TextField(db_collation="C")),
            ("key_id", models.TextField()),
            ("sealed_key", models.BinaryField()),
            ("created_at", models.DateTimeField()),
        ],
        options={"db_table": "memory_search_keys", "managed": False},
    ),
]


class Migration(migrations.Migration):
    dependencies = [("memory", "0003_tenants")]
    operations = [RunSQLFile("0004_keys", STATE)]
