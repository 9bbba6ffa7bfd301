"""Read by Django in place of its own for this language."""

DATETIME_FORMAT = "Y-m-d H:i:s"
