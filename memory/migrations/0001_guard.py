"""The guard function that every policy asks."""

from django.db import migrations

from memory.migrations._sqlfile import RunSQLFile


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [RunSQLFile("0001_guard")]
