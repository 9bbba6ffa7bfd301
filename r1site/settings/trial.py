"""What is wrong with a deployment's settings, all at once, before Django reads them."""

from __future__ import annotations

import importlib
import sys

from django.core.exceptions import ImproperlyConfigured

from r1site.settings import env


def settings_problems(module: str) -> list[str]:
    """What keeps the settings `module` from being used, a sentence each; nothing where it can be. Imports it."""
    known = set(sys.modules)
    with env.collecting() as problems:
        try:
            importlib.import_module(module)
        except ImproperlyConfigured as exc:
            problems.append(str(exc))
        except ModuleNotFoundError as exc:
            return [f"DJANGO_SETTINGS_MODULE is {module}, and there is no module {exc.name}"]
        except Exception:
            # By a value that stands in for one that is missing.
            if not problems:
                raise
    if problems:
        # Read with stand-ins: whoever asks for them again reads them anew.
        for name in set(sys.modules) - known:
            if name.startswith("r1site.settings") and name != env.__name__:
                del sys.modules[name]
    return list(dict.fromkeys(problems))
