"""Staff with a browser's cookies, logged in at staff's host name."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator

import pytest
from django.core.management import call_command
from django.db import connections
from django.test import Client

HOST = "staff.example"


class Staff(Client):
    """A browser of one member of staff; `name` is what the audit log calls him."""

    def __init__(self, name: str, password: str, **kwargs):
        super().__init__(headers={"host": HOST}, **kwargs)
        self.name, self.password = name, password

    def log_in(self, password: str | None = None):
        return self.post("/admin/login/?next=/admin/", {"username": self.name, "password": password or self.password})

    def see(self, path: str, **query) -> str:
        """The page of that address below /admin/, which there must be."""
        response = self.get(f"/admin/{path}", query)
        assert response.status_code == 200, (path, response.status_code, response.headers.get("Location"))
        return response.content.decode()


@pytest.fixture
def hired(transactional_db, capsys) -> Callable[..., Staff]:
    """(operator=False) -> somebody new, who is not logged in yet."""

    def hire(*options: str) -> Staff:
        name = f"ada-{uuid.uuid4().hex[:8]}"
        call_command("create_staff", name, *options)
        return Staff(name, json.loads(capsys.readouterr().out)["password"])

    return hire


@pytest.fixture
def viewer(hired) -> Staff:
    staff = hired()
    assert staff.log_in().status_code == 302
    return staff


@pytest.fixture
def operator(hired) -> Staff:
    staff = hired("--operator")
    assert staff.log_in().status_code == 302
    return staff


@pytest.fixture
def logged(transactional_db) -> Iterator[Callable[[Staff], list[tuple]]]:
    """(staff) -> his lines of the audit log that a test has brought about: (action, subject, detail)."""

    def lines(staff: Staff) -> list[tuple]:
        with connections["maint"].cursor() as cursor:
            cursor.execute(
                "SELECT action, subject, detail FROM memory_audit"
                " WHERE actor = %s AND action <> 'staff.login' ORDER BY id",
                [staff.name],
            )
            return [(action, subject, json.loads(detail)) for action, subject, detail in cursor.fetchall()]

    yield lines
