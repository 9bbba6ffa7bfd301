"""Metadata views for staff."""

from django.db import migrations

from memory.migrations._sqlfile import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("memory", "0006_spaces")]
    operations = [RunSQLFile("0007_metadata_views")]
