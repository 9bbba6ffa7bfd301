"""The keys of receipts, parsed from the environment: apart from all others, whose rotation makes no receipt invalid.

`MEMORY_RECEIPT_KEY` = base64 of 32 bytes, or several with commas between them, the newest first: the newest signs, each
verifies. Ids of summaries hang on the oldest, so that a summary made anew replaces the one before. Pure: no Django.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from memory.keys.derivation import derived_key
from memory.keys.master_keys import parse_key
from memory.keys.secret_files import ParsedSecrets, Secret, SettingError

RECEIPT_KEY_BYTES = 32
KEY_ID_BYTES = 8


@dataclass(frozen=True)
class ReceiptKey:
    """One of them. `key_id`: 16 hex digits that name it and give nothing of it away."""

    secret: bytes = field(repr=False)

    @property
    def key_id(self) -> str:
        return self.derived("receipt-key-id")[:KEY_ID_BYTES].hex()

    def derived(self, purpose: str) -> bytes:
        """32 bytes for one purpose."""
        return derived_key(self.secret, purpose)


def _parse(text: str) -> tuple[ReceiptKey, ...]:
    if not text:
        raise SettingError("MEMORY_RECEIPT_KEY is required: base64 of 32 random bytes")
    parts = [part.strip() for part in text.split(",")]
    keys = tuple(ReceiptKey(parse_key("MEMORY_RECEIPT_KEY", part, exactly=RECEIPT_KEY_BYTES)) for part in parts)
    if len({key.secret for key in keys}) < len(keys):
        raise SettingError("MEMORY_RECEIPT_KEY names one key twice")
    return keys


_receipt_keys = ParsedSecrets([Secret("MEMORY_RECEIPT_KEY")], _parse, "the receipt key is not one")


def receipt_keys() -> tuple[ReceiptKey, ...]:
    """Every key, the newest first, at least one. A file in the middle of a change leaves the last good ones in use.

    Raises SettingError when missing, weak or given twice, and there never were any good ones.
    """
    return _receipt_keys.value()


def forget_parsed_receipt_keys() -> None:
    """Read everything again at the next call. For tests, which change the environment of one process."""
    _receipt_keys.forget()


def summary_key() -> bytes:
    """32 bytes that ids of summaries are made with."""
    return receipt_keys()[-1].derived("summary-scope")
