"""What a queue before a model tells whoever measures it."""

from __future__ import annotations

from typing import Protocol


class QueueMeter(Protocol):
    """Of one model, which may have several queues; any thread may call."""

    def callers(self, more: int) -> None:
        """So many more wait now, those of the running batch included; negative: so many fewer."""

    def waited(self, seconds: float) -> None:
        """One caller did, until his first batch or until he gave up."""

    def batch(self, texts: int) -> None:
        """One pass of the model was of so many."""

    def refused(self) -> None:
        """One caller was turned away: no room, too much of his own, or no time."""

    def failed(self) -> None:
        """A pass, or a turn of the queue, did."""


class Unmeasured:
    """For a queue that nobody measures."""

    def callers(self, more: int) -> None:
        pass

    def waited(self, seconds: float) -> None:
        pass

    def batch(self, texts: int) -> None:
        pass

    def refused(self) -> None:
        pass

    def failed(self) -> None:
        pass


UNMEASURED = Unmeasured()
