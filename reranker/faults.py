"""What can go wrong with a model, and which reason its exception stands for."""

from __future__ import annotations

from reranker.results import Reason, RerankSkipped


class LoadFailure(Exception):
    """A model cannot be used; `reason` is what its calls are refused with, `detail` a clause for operators."""

    def __init__(self, reason: Reason, detail: str):
        super().__init__(detail)
        self.reason: Reason = reason
        self.detail = detail


class TokenizerFault(Exception):
    """A text or a pair that the tokenizer does not take."""


def out_of_memory(error: BaseException) -> bool:
    """True for torch's and Python's own; by name, for torch need not be imported."""
    return isinstance(error, MemoryError) or any(t.__name__ == "OutOfMemoryError" for t in type(error).__mro__)


def reason_of(error: BaseException) -> Reason:
    if isinstance(error, RerankSkipped):
        return error.reason
    if isinstance(error, TokenizerFault):
        return "tokenizer_error"
    if out_of_memory(error):
        return "out_of_memory"
    # torch raises RuntimeError, and its subclasses, for whatever a device does not do.
    return "device_error" if isinstance(error, RuntimeError) else "error"
