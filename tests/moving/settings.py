"""The suite's settings, for a process of its own against a database of its own."""

import os

from r1site.settings.test import *  # noqa: F403
from r1site.settings.test import DATABASES

for _alias in DATABASES.values():
    _alias["NAME"] = os.environ["R1_TEST_DATABASE"]
