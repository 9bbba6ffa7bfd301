"""Sealing under the names of the published plan: small proofs of the primitives, and one of the whole.

Properties, vectors and every column: `tests/unit/test_security.py` and `tests/security/test_sealing.py`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from memory.rls import tenant_transaction
from memory.security import NONCE_BYTES, TAG_BYTES, InvalidTag, hmac_user, open_sealed, seal

KEY = bytes(range(32))
TEXT = "The spare key lies under the third flowerpot."


class TestSealRoundTrip:
    @pytest.mark.parametrize("size", [0, 1, 16, 4096, 1_000_000])
    def test_a_text_of_any_size_opens_to_itself_and_is_28_bytes_longer_sealed(self, size):
        plaintext = (b"0123456789abcdef" * (size // 16 + 1))[:size]
        sealed = seal(plaintext, b"whose", KEY)
        assert len(sealed) == size + NONCE_BYTES + TAG_BYTES == size + 28
        assert open_sealed(sealed, b"whose", KEY) == plaintext


class TestAADBinding:
    def test_seal_aad_binding(self):
        """As published: the hash of a user is the associated data, and nobody else's opens it."""
        alice, bob = hmac_user("alice").encode(), hmac_user("bob").encode()
        sealed = seal(TEXT.encode(), alice, KEY)
        assert open_sealed(sealed, alice, KEY) == TEXT.encode()
        for other in (bob, b"", alice[:-1], alice + b"0", alice.upper()):
            with pytest.raises(InvalidTag):
                open_sealed(sealed, other, KEY)


class TestTamperDetection:
    @pytest.mark.parametrize(
        "place", [0, NONCE_BYTES, -TAG_BYTES - 1, -TAG_BYTES, -1], ids=["nonce", "first", "last", "tag", "end of tag"]
    )
    def test_a_changed_byte_anywhere_opens_to_nothing(self, place):
        changed = bytearray(seal(TEXT.encode(), b"whose", KEY))
        changed[place] ^= 0x80
        with pytest.raises(InvalidTag):
            open_sealed(bytes(changed), b"whose", KEY)

    def test_parts_of_two_sealed_texts_put_together_open_to_nothing(self):
        first, second = (seal(text, b"whose", KEY) for text in (b"meet at nine", b"meet at five"))
        for cut in (NONCE_BYTES, len(first) - TAG_BYTES):
            with pytest.raises(InvalidTag):
                open_sealed(first[:cut] + second[cut:], b"whose", KEY)


class TestThroughput:
    """How many a second is `make bench-crypto`: no time is held here. What may not suffer from haste is."""

    def test_ten_thousand_seals_of_eight_threads_all_open_and_share_no_nonce(self):
        def work(thread: int) -> list[bytes]:
            return [seal(f"{thread}-{number}".encode(), b"whose", KEY) for number in range(1250)]

        with ThreadPoolExecutor(8) as threads:
            batches = list(threads.map(work, range(8)))
        assert len({sealed[:NONCE_BYTES] for batch in batches for sealed in batch}) == 10_000
        for thread, batch in enumerate(batches):
            opened = [open_sealed(sealed, b"whose", KEY).decode() for sealed in batch]
            assert opened == [f"{thread}-{number}" for number in range(1250)]


@pytest.mark.django_db(transaction=True)
class TestIntegration:
    def test_what_the_service_stored_opens_for_its_user_and_not_by_the_master_key(self, alice, bob):
        alice.index("notes/key", TEXT, metadata={"place": "garden"})
        with tenant_transaction(alice.user_hash) as tx:
            [row] = tx.execute("SELECT text_cipher, meta_cipher, emb_cipher FROM memory_chunks").fetchall()
        for sealed in map(bytes, row):
            assert b"flowerpot" not in sealed and b"garden" not in sealed
            # Not the published recipe, which would open with every user's: each user has a key of his own.
            with pytest.raises(InvalidTag):
                open_sealed(sealed, alice.user_hash.encode())
        [found] = alice.query("Where is the spare key?").json()["results"]
        assert (found["text"], found["metadata"]) == (TEXT, {"place": "garden"})
        assert bob.query("Where is the spare key?").json()["results"] == []

    def test_a_sealed_text_copied_into_another_users_row_fails_his_request(self, alice, bob, superuser):
        alice.index("notes/key", TEXT)
        bob.index("notes/key", TEXT)
        theft = "UPDATE memory_chunks SET text_cipher = (SELECT text_cipher FROM memory_chunks WHERE user_hash = %s) WHERE user_hash = %s"  # noqa: E501
        superuser.execute(theft, [alice.user_hash, bob.user_hash])
        assert bob.query("Where is the spare key?").status_code == 500
        assert alice.query("Where is the spare key?").json()["results"][0]["text"] == TEXT
