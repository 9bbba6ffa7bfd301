"""A second graph, with all of a worker's threads, for as long as a long document is being read.

A graph has its threads for good, and a second one is 70 MB. A question is embedded while its words are looked up: on
two cores beside PostgreSQL one thread is what it has, and for a document that is half of what there is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from reranker.openvino_graph import OpenvinoGraph

logger = logging.getLogger(__name__)

# It is made after so many long texts, each less than KEPT_SECONDS after the last: those of some pages are read by then.
MANY = 8
KEPT_SECONDS = 30.0


class DocumentGraph:
    """`make()` gives the graph; it is called in a thread of its own, while texts are read without it.

    `wanted()` has one caller at a time.
    """

    def __init__(self, make: Callable[[], OpenvinoGraph]):
        self._make = make
        self._graph: OpenvinoGraph | None = None
        self._holder: threading.Thread | None = None
        self._read, self._kept_until = 0, 0.0
        self._can_be_made = True

    def wanted(self) -> OpenvinoGraph | None:
        """The graph for one long text, where there is one by now."""
        now = time.monotonic()
        if now > self._kept_until:
            self._read = 0
        self._read, self._kept_until = self._read + 1, now + KEPT_SECONDS
        if self._read >= MANY and self._holder is None and self._can_be_made:
            self._holder = threading.Thread(target=self._hold, name="document-graph", daemon=True)
            self._holder.start()
        return self._graph

    def _hold(self) -> None:
        try:
            self._graph = self._make()
        except Exception:
            logger.warning("documents are embedded by one thread, more slowly", exc_info=True)
            self._can_be_made = False
            return
        while (rest := self._kept_until - time.monotonic()) > 0:
            time.sleep(rest)
        self._graph = self._holder = None
