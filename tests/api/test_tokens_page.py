"""The guide's ten lines mint a token that the service takes."""

import re

from django.conf import settings
from django.test import Client

from tests.non_regression.documents import guide


def test_the_python_lines_mint_a_token_that_is_taken(monkeypatch):
    [code] = re.findall(r"```python\n(.*?)```", guide("tokens"), re.DOTALL)
    assert len(code.split("def memory_token")[1].splitlines()) <= 10
    monkeypatch.setenv("MEMORY_JWT_SECRET", settings.MEMORY_JWT_SECRET)
    there: dict = {}
    exec(code, there)
    checked = Client().get("/api/v1/auth/check", headers={"authorization": f"Bearer {there['memory_token']('maria')}"})
    assert checked.status_code == 204
