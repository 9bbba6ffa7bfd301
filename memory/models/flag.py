"""Run-time flags."""

from django.db import models


class Flag(models.Model):
    """One setting changed at run time; a row wins over the environment."""

    name = models.TextField(primary_key=True)
    value = models.JSONField()
    updated_at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = "memory_flags"
