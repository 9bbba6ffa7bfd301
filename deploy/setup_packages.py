"""Install a lock file into the virtual environment that runs this, and show how far it is: set-up's longest part.

    .venv/bin/python deploy/setup_packages.py requirements/dev.lock

pip looks at each package first and installs all of them after that, of which it tells nothing: what has been installed
is counted in the environment itself. Where pip fails, its last lines are shown and its exit code is this one's.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]
from memory.maintenance.progress import Progress  # noqa: E402

PIP = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off", "--no-color"]
LOOKED_AT = re.compile(r"(Collecting|Requirement already satisfied:) ")
TAIL_LINES = 30
LOOK_SECONDS = 0.5


def main(lock: Path) -> int:
    packages = len(re.findall(r"^[A-Za-z0-9].*==", lock.read_text(), re.MULTILINE))
    progress = Progress(sys.stderr.write, is_terminal=sys.stderr.isatty())
    label = f"set-up: {lock.name}, steps"
    progress(label, 0, 2 * packages)
    pip = subprocess.Popen(
        [*PIP, "--no-deps", "--require-hashes", "-r", str(lock)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    said: list[str] = []
    installing = threading.Event()

    def read() -> None:
        assert pip.stdout is not None
        for line in pip.stdout:
            said.append(line)
            if line.startswith("Installing collected packages"):
                installing.set()

    reader = threading.Thread(target=read)
    reader.start()
    before = _installed()
    while reader.is_alive():
        reader.join(LOOK_SECONDS)
        looked_at = packages if installing.is_set() else sum(bool(LOOKED_AT.match(line)) for line in list(said))
        done = min(packages, looked_at) + min(packages, max(0, _installed() - before))
        progress(label, done, 2 * packages)
    code = pip.wait()
    if code == 0:
        progress(label, 2 * packages, 2 * packages)
    progress.end()
    if code:
        sys.stderr.write("".join(said[-TAIL_LINES:]))
    return code


def _installed() -> int:
    """How many packages the environment has."""
    return sum(1 for _ in Path(sysconfig.get_path("purelib")).glob("*.dist-info"))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
