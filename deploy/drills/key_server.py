"""Users' keys moved from a file to a key server and back, under load: `make drill-key-server`.

1. Start the service with the master key `k1` in a file; two workers, rates off, `--users` users beside readers and
   writers. `--reads` queries and `--writes` writes a second go on until the end; a reader's answer must be that of
   before.
2. To the server (OpenBao's transit engine): another instance of the service that asks it takes the load over, the first
   one is stopped. Wrap all keys anew, killed at half and gone on with; verify; retire `k1`, and put `k2` in its place.
3. Kill the server, for `--down` seconds. Whoever is at work goes on, by keys that are open; a new user is answered 503
   `key_unavailable`. Start it again, and unseal it: the new user is let in.
4. Back to the file, in the same way, and the server is retired. The last instance knows nothing of it.

Prints what each step did, its rate, and the waits of reads and writes meanwhile. Exit 1 where a request failed, an
answer differed or a step did not end as it should.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]
from deploy.bench.served import Served  # noqa: E402
from deploy.bench.wire import mint_tokens  # noqa: E402
from deploy.drills.key_files import KeyFiles  # noqa: E402
from deploy.drills.keys import fill_beside, verified, wrapped_anew  # noqa: E402
from deploy.drills.load import Load, asked, begin_load  # noqa: E402
from deploy.drills.steps import Steps, load_options, reported  # noqa: E402
from tests.faults.bao import KEY_NAME, KeyServer  # noqa: E402

PATIENCE_SECONDS = 120.0
# A retirement lets every worker forget what it had opened: until then whoever is at work has come to each of them.
OPENED_SECONDS = 15.0


class KeyServerDrill:
    """The instances of the service, one after the other, the files and the server."""

    def __init__(self, folder: Path, options: argparse.Namespace):
        self.options, self.var = options, folder / "var"
        self.key_server = KeyServer(folder / "bao")
        self.files = KeyFiles(folder, "k1")
        self.steps = Steps(self._instance(self._asking("local")))

    def _instance(self, settings: dict[str, str]) -> Served:
        return Served(self.var, settings={"WEB_CONCURRENCY": "2", **self.files.settings, **settings})

    def _asking(self, provider: str) -> dict[str, str]:
        """Settings of an instance that opens what either has wrapped, and wraps with `provider`."""
        return {
            "MEMORY_KEY_PROVIDER": provider, "MEMORY_TRANSIT_URL": self.key_server.url,
            "MEMORY_TRANSIT_TOKEN": self.key_server.token,
        }  # fmt: skip

    def to_the_server(self, load: Load) -> dict[str, Any]:
        load.phase = "hand over"
        self.steps.hand_over(load, self._instance(self._asking("transit")))
        load.phase = "to the server"
        report = wrapped_anew(self.steps, "transit:%") | verified(self.steps)
        code, _, _ = self.steps.step("--retire", "k1", "--without-backups")
        self.steps.expect(code == 0, "k1 is retired")
        self.files.forget("k1", new="k2")
        return report

    def server_down(self, load: Load, newcomer: str) -> dict[str, Any]:
        """Down for a while: `newcomer` is the token of a user whose keys are not there yet."""
        load.phase = "all keys are opened again"
        time.sleep(OPENED_SECONDS)
        load.phase = "server down"
        self.key_server.kill()
        status, answer = self._remember(newcomer)
        self.steps.expect((status, answer.get("code")) == (503, "key_unavailable"), f"a newcomer is told: {status}")
        time.sleep(self.options.down)
        load.phase = "server up again"
        self.key_server.start()
        started = time.monotonic()
        self._until(lambda: self._remember(newcomer)[0] in (200, 201), "the newcomer is let in")
        return {"down_seconds": self.options.down, "newcomer_let_in_after": round(time.monotonic() - started, 1)}

    def back_to_the_file(self, load: Load) -> dict[str, Any]:
        load.phase = "hand over back"
        self.steps.hand_over(load, self._instance(self._asking("local")))
        load.phase = "back to the file"
        report = wrapped_anew(self.steps, "k_") | verified(self.steps)
        code, _, _ = self.steps.step("--retire", f"transit:{KEY_NAME}:1", "--without-backups")
        self.steps.expect(code == 0, "the server's key is retired")
        load.phase = "without the server"
        self.steps.hand_over(load, self._instance({"MEMORY_KEY_PROVIDER": "local"}))
        self.key_server.stop()
        code, status, _ = self.steps.step("--status")
        self.steps.expect(not status["findings"], "nothing is to be seen to once the server is gone")
        return report

    def run(self) -> dict[str, Any]:
        options = self.options
        self.steps.served.__enter__()
        try:
            fill_beside(self.steps, options.users, 200)
            [newcomer] = mint_tokens(self.var, ["newcomer"])
            load = begin_load(self.steps.served, options.reads, options.writes)
            with load:
                time.sleep(options.seconds)
                report = {
                    "to_the_server": self.to_the_server(load),
                    "server_down": self.server_down(load, newcomer),
                    "back_to_the_file": self.back_to_the_file(load),
                }
                load.phase = "after"
                time.sleep(options.seconds)
            self.steps.expect(load.wrote_what_is_read(), "what was written last is what is read")
        finally:
            self.steps.served.__exit__(None, None, None)
            self.key_server.stop()
        report |= self.steps.requests(load)
        self.steps.expect(not load.differing, f"{len(load.differing)} answers differed")
        return report | {"failures": self.steps.failures}

    def _remember(self, token: str) -> tuple[int, dict[str, Any]]:
        return asked(self.steps.served.port, token, "memory/index", {"doc_id": "one", "text": "I am new here."})

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (is_so := condition()) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.steps.expect(is_so, what)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, default=300, help="users of one chunk, two keys each (%(default)s)")
    load_options(parser)
    parser.add_argument("--down", type=float, default=60, help="seconds that the server is down (%(default)s)")
    options = parser.parse_args()
    return reported(lambda folder: KeyServerDrill(folder, options).run())


if __name__ == "__main__":
    sys.exit(main())
