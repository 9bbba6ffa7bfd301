"""Look the locked distributions up among known vulnerabilities, and write the bill of materials: `make audit`.

1. Write var/sbom.json: what a server installs (ml.lock and torch), in CycloneDX JSON with the hashes of the locks.
2. Look up every distribution of the locks with pip-audit, which asks the package index's vulnerability service.
   Write what was found to var/audit.json and print it.

Exit 0 with nothing found; 1 with findings; 4 where the lookup could not be made or was not whole, the SBOM being
written all the same.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS, VAR = ROOT / "requirements", ROOT / "var"
SBOM, REPORT = VAR / "sbom.json", VAR / "audit.json"
# gpu.lock has what ml.lock has, torch and its CUDA libraries too.
AUDITED = ("gpu.lock", "dev.lock", "audit.lock", "clients.lock")
FOUND, NOT_WHOLE = 1, 4
LOOKUP_TIMEOUT_SECONDS = 30


def write_sbom() -> None:
    """var/sbom.json. Raises CalledProcessError."""
    torch = re.search(r"^torch==.*$", (REQUIREMENTS / "ml.txt").read_text(), re.MULTILINE)[0]
    subprocess.run(
        [sys.executable, "-m", "cyclonedx_py", "requirements", "-", "--pyproject", str(ROOT / "pyproject.toml")]
        + ["--output-reproducible", "--of", "JSON", "-o", str(SBOM)],
        input=f"{torch}\n{(REQUIREMENTS / 'ml.lock').read_text()}",
        text=True,
        check=True,
    )


def audit() -> int:
    """Look up AUDITED; what was found is printed and in var/audit.json. Returns the exit code."""
    REPORT.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    command += ["--timeout", str(LOOKUP_TIMEOUT_SECONDS), "--output", str(REPORT)]
    command += [argument for name in AUDITED for argument in ("--requirement", str(REQUIREMENTS / name))]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if not REPORT.exists():
        print(done.stderr, file=sys.stderr)
        print("audit: the vulnerability service gave no answer: NOTHING WAS LOOKED UP", file=sys.stderr)
        return NOT_WHOLE
    return told(json.loads(REPORT.read_text())["dependencies"])


def told(distributions: list[dict]) -> int:
    """Print what pip-audit's report says of each distribution; returns the exit code."""
    skipped = [item for item in distributions if "skip_reason" in item]
    found = [(item, vulnerability) for item in distributions for vulnerability in item.get("vulns", [])]
    for item, vulnerability in found:
        fixed_in = ", ".join(vulnerability["fix_versions"]) or "no release yet"
        print(f"{item['name']} {item['version']}: {vulnerability['id']}, fixed in {fixed_in}")
    if skipped:
        print(f"audit: not known there: {', '.join(item['name'] for item in skipped)}", file=sys.stderr)
    if len(skipped) == len(distributions):
        print("audit: the vulnerability service knows none of them: NOTHING WAS LOOKED UP", file=sys.stderr)
    print(f"audit: {len(distributions) - len(skipped)} distributions looked up, {len(found)} findings", file=sys.stderr)
    return FOUND if found else NOT_WHOLE if skipped else 0


def main() -> int:
    VAR.mkdir(exist_ok=True)
    write_sbom()
    print(f"audit: {SBOM.relative_to(ROOT)} written", file=sys.stderr)
    return audit()


if __name__ == "__main__":
    sys.exit(main())
