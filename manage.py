#!/usr/bin/env python
"""Django's command line for R1 Memory & Context."""

import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "r1site.settings.dev")
    try:
        from django.core.management import execute_from_command_line
    except ModuleNotFoundError:
        sys.exit(
            f"{sys.executable} has not the packages of this project: run `make setup` once, then "
            "`.venv/bin/python manage.py ...`, or `source .venv/bin/activate` before it"
        )

    execute_from_command_line(sys.argv)
