"""A second graph, with all of a worker's threads, for as long as long documents are read.

A graph has its threads for good, and a second one is 70 MB. A question is embedded while its words are looked up: on
two cores beside PostgreSQL one thread is what it has, and for a document that is half of what there is.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable

from memory.embedding.cores import go_anywhere
from reranker.openvino_graph import OpenvinoGraph

logger = logging.getLogger(__name__)

# It is made after so many long texts, each less than APART_SECONDS after the last: some pages are read by then.
MANY, APART_SECONDS = 8, 30.0
# So long after the last one it goes: longer, so that nobody has it made over and over.
KEPT_SECONDS = 300.0


class DocumentGraph:
    """`make()` gives the graph; it is called in a thread of its own, while texts are read without it.

    `wanted()` has one caller at a time. `make` refers to nothing that refers to this.
    """

    def __init__(self, make: Callable[[], OpenvinoGraph]):
        self._make = make
        self._graph: OpenvinoGraph | None = None
        self._holder: threading.Thread | None = None
        self._read, self._last_at = 0, 0.0
        self._is_over = threading.Event()
        # A process that ended while OpenVINO makes kernels would be aborted.
        atexit.register(self.close)

    def wanted(self) -> OpenvinoGraph | None:
        """The graph for one long text, where there is one by now."""
        now = time.monotonic()
        self._read = self._read + 1 if now - self._last_at < APART_SECONDS else 1
        self._last_at = now
        if self._read >= MANY and self._holder is None and not self._is_over.is_set():
            self._holder = threading.Thread(target=self._hold, name="document-graph", daemon=True)
            self._holder.start()
        return self._graph

    def close(self) -> None:
        """Let go of it for good, once it is made where that is under way."""
        self._is_over.set()
        if (holder := self._holder) is not None:
            holder.join()
        atexit.unregister(self.close)

    def _hold(self) -> None:
        # This thread inherited the asking one's processors, perhaps half of them, and its own would inherit them.
        go_anywhere()
        try:
            self._graph = self._make()
        except Exception:
            logger.warning("documents are embedded by one thread, more slowly", exc_info=True)
            self._is_over.set()
        while (rest := self._last_at + KEPT_SECONDS - time.monotonic()) > 0 and not self._is_over.wait(rest):
            pass
        self._graph = self._holder = None
