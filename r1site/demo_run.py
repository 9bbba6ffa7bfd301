"""What `make run` does beside serving: the rest of the demo indexed behind it, the console looked for."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from r1site import web_process

CONSOLE_PROBE_SECONDS = 5


def log_of(var: Path) -> Path:
    """Where the indexing behind a service over `var` says how far it is."""
    return var / "log" / "demo.log"


@contextmanager
def rest_of_demo(var: Path, url: str) -> Iterator[None]:
    """Index what the demo's questions do without, beside the block; cut short at its end, the next `run` goes on."""
    log_of(var).parent.mkdir(parents=True, exist_ok=True)
    with open(log_of(var), "ab") as output:
        child = subprocess.Popen(
            [sys.executable, "manage.py", "demo", "--rest", "--url", url],
            cwd=web_process.PROJECT,
            stdout=output,
            stderr=output,
            # Of its own session, so that Ctrl-C reaches it through us.
            start_new_session=True,
            preexec_fn=web_process.die_with_parent,
        )
    try:
        yield
    finally:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(web_process.STOP_LIMIT_SECONDS)
        child.kill()
        child.wait()


def has_console(url: str) -> bool:
    """Whether the service at `url` has a page to open."""
    # No proxies: an http_proxy in the environment must not be asked for our own address.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/console/", timeout=CONSOLE_PROBE_SECONDS) as response:
            return response.status == 200
    except OSError:
        return False
