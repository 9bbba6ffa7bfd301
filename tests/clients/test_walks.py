"""A Python and a TypeScript client, generated from the committed document, walk through the service and see the same.

The TypeScript one is compiled with all checks on, together with the guide's lines that mint a token.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.bench.wire import mint_tokens
from tests.faults.service import ROOT, Service, running
from tests.non_regression.documents import guide

HERE = Path(__file__).parent
PYTHON = ROOT / ".venv-clients/bin/python"
DOCUMENT = ROOT / "memory/api/schema/openapi.json"
# Where `make test-clients` has put the TypeScript packages.
PACKAGES = ROOT / os.environ.get("R1_CLIENTS", "")

SEEN = {
    "indexed": ["notes/heating", 1],
    "repeated": ["notes/heating", 1],
    "found": ["Grüße! The heat pump was serviced in March by Maria Lindqvist.", "notes/heating"],
    "streamed": [["citations", "token", "done"], True],
    "listed": ["diary/0", "diary/1", "diary/2", "diary/3", "notes/heating"],
    "read": "Grüße! The heat pump was serviced in March by Maria Lindqvist.",
    "deleted": 204,
    "missing": "not_found",
    "other": 0,
    "stranger": "invalid_token",
    "wrong": ["invalid", ["query", "top_k"]],
    "too_many": ["rate_limited", True],
}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running(MEMORY_RATE_QUERY="30/min") as service:
        yield service


def ran(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_the_python_client_walks_through(service, tmp_path):
    ran(PYTHON, ROOT / "deploy/clients/generate.py", tmp_path / "r1_memory", cwd=tmp_path)
    tokens = mint_tokens(service.var, [f"{name}-{uuid.uuid4().hex}" for name in ("maria", "other")])
    told = ran(
        PYTHON, HERE / "walk.py", cwd=tmp_path, PYTHONPATH=str(tmp_path), MEMORY_TOKENS=" ".join(tokens),
        MEMORY_URL=f"http://127.0.0.1:{service.port}",
    )  # fmt: skip
    assert json.loads(told) == SEEN


def test_the_typescript_client_is_compiled_with_all_checks_and_walks_through(service, tmp_path):
    for name in ("walk.ts", "tsconfig.json", "package.json"):
        shutil.copy(HERE / "typescript" / name, tmp_path / name)
    (tmp_path / "node_modules").symlink_to(PACKAGES / "node_modules")
    [minting] = re.findall(r"```typescript\n(.*?)```", guide("tokens"), re.DOTALL)
    (tmp_path / "token.ts").write_text(minting)
    programs = PACKAGES / "node_modules/.bin"
    # Without it a member that has a default would have to be sent.
    ran(
        programs / "openapi-typescript", DOCUMENT, "--default-non-nullable=false", "-o", "schema.d.ts", cwd=tmp_path
    )  # fmt: skip
    ran(programs / "tsc", "--project", ".", cwd=tmp_path)
    told = ran(
        "node", "out/walk.js", cwd=tmp_path, MEMORY_URL=f"http://127.0.0.1:{service.port}",
        MEMORY_JWT_SECRET=(service.var / "secrets/MEMORY_JWT_SECRET").read_text().strip(),
    )  # fmt: skip
    assert json.loads(told) == SEEN


def test_an_error_that_is_not_in_the_contract_does_not_compile(tmp_path):
    for name in ("tsconfig.json", "package.json"):
        shutil.copy(HERE / "typescript" / name, tmp_path / name)
    (tmp_path / "node_modules").symlink_to(PACKAGES / "node_modules")
    ran(PACKAGES / "node_modules/.bin/openapi-typescript", DOCUMENT, "-o", "schema.d.ts", cwd=tmp_path)
    (tmp_path / "walk.ts").write_text(
        'import type { components } from "./schema.js";\n'
        'export const code: components["schemas"]["NotFoundProblem"]["code"] = "nowhere";\n'
    )
    done = subprocess.run(
        [PACKAGES / "node_modules/.bin/tsc", "--project", "."], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0 and "nowhere" in done.stdout
