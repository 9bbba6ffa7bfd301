"""What mypy's Django plugin imports: every setting with its type, without a secret, a file or a database.

The service does not start with these: there is no key and no server.
"""

import os

for _name in [name for name in os.environ if name.startswith("DJANGO_SECRET_KEY")]:
    del os.environ[_name]
os.environ["DJANGO_SECRET_KEY"] = "none: nothing is signed where only types are read"

from r1site.settings.base import *  # noqa: E402

DATABASES = {"default": {"ENGINE": "r1site.postgresql"}}
