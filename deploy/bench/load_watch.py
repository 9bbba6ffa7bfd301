"""What a service under load takes: CPU by who uses it, and connections of the pool."""

from __future__ import annotations

import http.client
import os
import re
import threading
import time

from deploy.bench.processes import cpu_seconds
from deploy.bench.proxy import Proxy
from deploy.bench.served import Served

LOOK_SECONDS = 1.0
# Both are summed over the workers.
_IN_USE = re.compile(rb"^memory_db_pool_in_use(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)
_MAX = re.compile(rb"^memory_db_pool_max(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)


class Watch:
    """Looks while its block lasts. One question a second to the service, about its metrics."""

    def __init__(self, served: Served, proxy: Proxy | None):
        self._served = served
        postmaster = (served.var / "postgres" / "data" / "postmaster.pid").read_text().split("\n", 1)[0]
        self._roots = {"generator": os.getpid(), "service": served.process.pid, "postgresql": int(postmaster)}
        if proxy is not None:
            self._roots["nginx"] = proxy.process.pid
        self._shares: list[float] = []
        self._ended = threading.Event()

    def __enter__(self) -> Watch:
        self._before, self._started = cpu_seconds(self._roots), time.perf_counter()
        self._thread = threading.Thread(target=self._look, name="load-watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info) -> None:
        self._seconds = time.perf_counter() - self._started
        self._after = cpu_seconds(self._roots)
        self._ended.set()
        self._thread.join()

    def report(self) -> dict:
        """Cores that each has used on average, and of the pool's connections the share that were lent at most."""
        cores = {name: round((self._after[name] - self._before[name]) / self._seconds, 2) for name in self._roots}
        return {"cpu_cores": cores, "pool_share_max": round(max(self._shares, default=0.0), 2)}

    def _look(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            connection = http.client.HTTPConnection("127.0.0.1", self._served.port, timeout=10)
            try:
                connection.request("GET", "/metrics/memory")
                body = connection.getresponse().read()
            except OSError:
                continue
            finally:
                connection.close()
            in_use, most = _IN_USE.search(body), _MAX.search(body)
            if in_use and most and float(most[1]):
                self._shares.append(float(in_use[1]) / float(most[1]))
