"""Generate a Python client from the committed OpenAPI document, as users' teams do: `make clients`.

1. Write the client to `var/clients/r1_memory`, or to the folder named as the argument, replacing what is there.
2. Fail on any warning of the generator: each is something that its client leaves out.

Runs under .venv-clients (requirements/clients.lock) and needs nothing of the service. Exit 0; 1 with warnings, printed
with their number.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "memory/api/schema/openapi.json"
CLIENT = ROOT / "var/clients/r1_memory"


def main(output: Path) -> int:
    output.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--path", str(DOCUMENT)]
    command += ["--meta", "none", "--output-path", str(output), "--overwrite", "--fail-on-warning"]
    # The generator looks for ruff, which tidies what it writes, on the path.
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, file=sys.stderr)
    warnings = done.stdout.count("WARNING")
    print(f"clients: {warnings} warnings, {output}")
    return 1 if warnings or done.returncode else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else CLIENT))
