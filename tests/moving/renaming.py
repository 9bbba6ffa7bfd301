"""A database of its own whose users can all be renamed, and the two keys between which they are."""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from django.conf import settings
from django.core.management import call_command
from django.db import connections

from memory.admission.pace import Pace
from memory.embedding import spaces
from memory.isolation.audit import TENANT_TABLES
from memory.keys.master_keys import forget_parsed_keys, tenant_key_check
from memory.maintenance.hmac_keys import keys_to_rotate, promote
from memory.maintenance.hmac_rotation import Renamed, rename_users, retire
from memory.sealing import names
from memory.sealing.keyring import forget_profiles
from memory.security import hmac_user
from tests.db.scratch import ScratchDatabase

OTHER = "MEMORY_TENANT_HMAC_OTHER_KEY"


@dataclass(frozen=True)
class Renaming:
    """Where it happens: a look at all rows, and what a process of its own needs to take part."""

    superuser: psycopg.Connection
    environment: dict[str, str]
    new_key: bytes

    def new_name(self, person) -> str:
        """What the person is to be called."""
        return hmac_user(person.user_id, self.new_key)

    def rename_all(self) -> Renamed:
        """What the command does, in this process."""
        done = Renamed(dry_run=False)
        maint = connections["maint"]
        keys = keys_to_rotate(maint)
        if not keys.is_promoted:
            promote(maint, keys)
        rename_users(maint, keys, done, pace=Pace(0), progress=lambda *shown: None)
        return done

    def retire(self) -> int:
        """As `--retire`."""
        return retire(connections["maint"], keys_to_rotate(connections["maint"]), lambda *shown: None)

    def command(self, *arguments: str) -> subprocess.Popen:
        """The real command, against this database."""
        return subprocess.Popen(
            [sys.executable, "manage.py", "rotate_hmac", *arguments], cwd=settings.BASE_DIR,
            env=os.environ | self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def rows_under(self, user_hash: str) -> dict[str, int]:
        """How many rows each tenant table has under a name; those without any left out."""
        counts = {}
        for table in TENANT_TABLES:
            [count] = self.superuser.execute(
                f"SELECT count(*) FROM {table} WHERE user_hash = %s", [user_hash]
            ).fetchone()
            if count:
                counts[table] = count
        return counts


def result(process: subprocess.Popen) -> dict:
    """What a command said that ended well."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    said: dict = json.loads(out)
    return said


@contextmanager
def in_renaming_database(scratch: ScratchDatabase) -> Iterator[Renaming]:
    """A migrated database as that of this thread, with nobody in it and the old key the one that names users."""
    new_key = secrets.token_bytes(32)
    os.environ[OTHER] = base64.b64encode(new_key).decode()
    environment = {"DJANGO_SETTINGS_MODULE": "tests.moving.settings", "R1_TEST_DATABASE": scratch.name}
    try:
        with scratch.connect() as superuser, scratch.as_alias("default", "owner", "maint", "backup"):
            for table in (*TENANT_TABLES, "memory_hmac_keys", "memory_workers"):
                superuser.execute(f"DELETE FROM {table}")
            _forget()
            superuser.execute("UPDATE memory_spaces SET tenant_key_check = %s", [tenant_key_check()])
            call_command("register_space", verbosity=0)
            yield Renaming(superuser, environment, new_key)
    finally:
        del os.environ[OTHER]
        _forget()


def _forget() -> None:
    forget_parsed_keys()
    forget_profiles()
    spaces.forget_spaces()
    names.forget_names()
