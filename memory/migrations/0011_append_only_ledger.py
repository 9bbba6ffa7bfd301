"""The service adds to the ledger of erasures and can take nothing back."""

from django.db import migrations

from memory.migrations._sqlfile import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("memory", "0010_requests")]
    operations = [RunSQLFile("0011_append_only_ledger")]
