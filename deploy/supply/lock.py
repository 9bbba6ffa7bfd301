"""Lock what the requirements ask for, with hashes: `make lock`, or with `ARGS=--upgrade` to move to newer versions.

1. Resolve each of LOCKS for every platform and Python 3.11 or newer. What a lock has stays where it still fits.
2. Write `requirements/<name>.lock`: every distribution, those asked for in turn included, with the SHA-256 of each
   file that the index has of it, for all platforms.
3. Leave torch and its CUDA libraries out of the locks that hosts without a GPU install: an index of CPU builds has
   other files of torch, with other hashes, and none of the libraries.
4. Leave openvino-telemetry out of every lock: openvino asks for it and does without it, and nothing here may report
   to anybody.

Needs the package index, and nothing of the service. Exit 0; 1 where the requirements cannot be met together.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "requirements"
# gpu.lock has all that production runs, and so decides for the two after it.
LOCKS = {
    "gpu": ["gpu"], "ml": ["base", "ml"], "dev": ["dev"],
    "audit": ["audit"], "clients": ["clients"], "key-server": ["key-server"],
    "browser": ["browser"],
}  # fmt: skip
WITHOUT_TORCH = ("ml", "dev")
REPORTS_TO_OTHERS = ("openvino-telemetry",)
_CUDA = re.compile(r"^((?:nvidia|cuda)-[a-z0-9-]+|triton)==", re.MULTILINE)
_LEFT_OUT_BEGINS = "\n# The following packages were excluded"

WHOLE = """\
# Written by `make lock` from {sources}: every distribution, with the SHA-256 of each of its public files.
# Install: pip install --require-hashes -r requirements/{name}.lock
"""
IN_PART = """\
# Written by `make lock` from {sources}: every distribution, with the SHA-256 of each of its public files.
# torch is not in it, nor are the CUDA libraries that one build of it asks for: which build pip takes, and so its
# hash, depends on the index. Install it alone, as ml.txt has it, after
#   pip install --no-deps --require-hashes -r requirements/{name}.lock
"""


def left_out() -> list[str]:
    """The names that the locks in WITHOUT_TORCH leave out, by what gpu.lock has."""
    return ["torch", *sorted(set(_CUDA.findall((FOLDER / "gpu.lock").read_text()))), *REPORTS_TO_OTHERS]


def lock(name: str, arguments: list[str]) -> None:
    """Write `requirements/<name>.lock`. `arguments` go to uv. Raises CalledProcessError if uv fails."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"]
    command += ["--generate-hashes", "--no-header", "--annotation-style", "line", *arguments]
    if name in WITHOUT_TORCH:
        command += ["--constraints", "gpu.lock"]
        command += [argument for package in left_out() for argument in ("--no-emit-package", package)]
    sources = [f"{source}.txt" for source in LOCKS[name]]
    path = FOLDER / f"{name}.lock"
    subprocess.run([*command, *sources, "--output-file", path.name], cwd=FOLDER, check=True, stdout=subprocess.DEVNULL)
    preface = IN_PART if name in WITHOUT_TORCH else WHOLE
    text = preface.format(name=name, sources=" and ".join(sources))
    locked = path.read_text().partition(_LEFT_OUT_BEGINS)[0]
    locked = locked.replace(", -c gpu.lock", "").replace("via -c gpu.lock, ", "via ")
    path.write_text(text + locked.rstrip() + "\n")


def main() -> int:
    for name in LOCKS:
        print(f"lock: requirements/{name}.lock", file=sys.stderr)
        try:
            lock(name, sys.argv[1:])
        except subprocess.CalledProcessError:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
