#!/usr/bin/env python
"""Django's command line for R1 Memory & Context."""

import os
import sys
from pathlib import Path


def main() -> int:
    """Exit 2 where the command cannot be run at all, with what to do; otherwise as the command has it."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "r1site.settings.dev")
    try:
        from django.core.management import execute_from_command_line

        from r1site.settings.trial import settings_problems
    except ModuleNotFoundError as exc:
        python = Path(__file__).with_name(".venv") / "bin" / "python"
        sys.stderr.write(
            f"error: {exc.name} is not installed for {sys.executable}. Run `make setup` once, "
            f"then `{python} {' '.join(sys.argv)}`.\n"
        )
        return 2
    if problems := settings_problems(os.environ["DJANGO_SETTINGS_MODULE"]):
        if sys.argv[1:2] == ["doctor"]:
            from memory.maintenance.diagnosis import report_settings

            return report_settings(problems)
        listed = "".join(f"  - {problem}\n" for problem in problems)
        sys.stderr.write(
            f"error: the settings ({os.environ['DJANGO_SETTINGS_MODULE']}) cannot be used:\n{listed}"
            "Each setting is told in deploy/guide/settings.md.\n"
        )
        return 2
    execute_from_command_line(sys.argv)
    return 0


if __name__ == "__main__":
    sys.exit(main())
