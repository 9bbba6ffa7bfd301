"""The primitives: sealing as NIST and the format say, canonical user ids, keys from the environment."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import os
import time
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import cryptography_vectors
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import example, given, settings
from hypothesis import strategies as st

from memory import security
from memory.errors import InvalidUserId, KeyUnavailable
from memory.keys import master_keys
from memory.keys.secret_files import SECRET_FILE_MAX_BYTES, Secret, SettingError, exposed_secrets
from memory.security import InvalidTag, associated_data, canonical_user_id, hmac_user, open_sealed, seal

KEY = bytes(range(32))
AAD = associated_data("f" * 64, "memory_chunks.text_cipher", bytes(16), 1)

relaxed = settings(deadline=None, max_examples=200)


# NIST CAVP


@dataclass(frozen=True)
class Vector:
    """One test case of a CAVP response file; `plaintext` is None where opening must fail."""

    key: bytes
    nonce: bytes
    ciphertext: bytes
    tag: bytes
    aad: bytes
    plaintext: bytes | None


@functools.cache
def nist_vectors(name: str) -> list[Vector]:
    """The cases of one .rsp file with 96-bit nonces and 128-bit tags, the only ones the format has."""
    path = Path(cryptography_vectors.__file__).parent / "ciphers/AES/GCM" / name
    vectors, section, case = [], {}, {}
    for line in [*path.read_text().splitlines(), ""]:
        line = line.strip()
        if line.startswith("[") and " = " in line:
            field, _, value = line.strip("[]").partition(" = ")
            section[field] = int(value)
        elif line == "FAIL":
            case["FAIL"] = b""
        elif " = " in line or line.endswith(" ="):
            field, _, value = line.partition("=")
            case[field.strip()] = value.strip()
        elif not line and "Key" in case:
            if (section["Keylen"], section["IVlen"], section["Taglen"]) == (256, 96, 128):
                raw = {field: bytes.fromhex(case[field]) for field in ("Key", "IV", "CT", "Tag", "AAD")}
                plaintext = None if "FAIL" in case else bytes.fromhex(case["PT"])
                vectors.append(Vector(raw["Key"], raw["IV"], raw["CT"], raw["Tag"], raw["AAD"], plaintext))
            case = {}
    return vectors


def test_every_nist_encryption_vector_opens_to_its_plaintext():
    vectors = nist_vectors("gcmEncryptExtIV256.rsp")
    assert len(vectors) > 100
    assert any(vector.plaintext for vector in vectors) and any(vector.aad for vector in vectors)
    for vector in vectors:
        assert open_sealed(vector.nonce + vector.ciphertext + vector.tag, vector.aad, vector.key) == vector.plaintext


def test_every_nist_decryption_vector_opens_or_fails_as_nist_says():
    vectors = nist_vectors("gcmDecrypt256.rsp")
    good = [vector for vector in vectors if vector.plaintext is not None]
    bad = [vector for vector in vectors if vector.plaintext is None]
    assert len(good) > 100 and len(bad) > 100
    for vector in good:
        assert open_sealed(vector.nonce + vector.ciphertext + vector.tag, vector.aad, vector.key) == vector.plaintext
    for vector in bad:
        with pytest.raises(InvalidTag):
            open_sealed(vector.nonce + vector.ciphertext + vector.tag, vector.aad, vector.key)


def test_sealing_under_a_nist_nonce_gives_nists_ciphertext_and_tag(monkeypatch):
    vectors = nist_vectors("gcmEncryptExtIV256.rsp")
    for vector in vectors:
        monkeypatch.setattr(security.os, "urandom", lambda count, nonce=vector.nonce: nonce[:count])
        sealed = seal(vector.plaintext, vector.aad, vector.key)
        assert sealed == vector.nonce + vector.ciphertext + vector.tag
    assert len(vectors) > 100


# The blob


@relaxed
@given(st.binary(max_size=5000), st.binary(max_size=200), st.binary(min_size=32, max_size=32))
def test_what_was_sealed_opens_with_the_same_key_and_associated_data(plaintext, aad, key):
    blob = seal(plaintext, aad, key)
    assert len(blob) == 28 + len(plaintext)
    assert open_sealed(blob, aad, key) == plaintext
    assert open_sealed(memoryview(blob), aad, AESGCM(key)) == plaintext


@relaxed
@given(st.binary(max_size=300), st.binary(max_size=60), st.binary(max_size=60))
def test_other_associated_data_does_not_open(plaintext, aad, other):
    if aad == other:
        other += b"\0"
    with pytest.raises(InvalidTag):
        open_sealed(seal(plaintext, aad, KEY), other, KEY)


@relaxed
@given(st.binary(max_size=300), st.integers(0, 255))
def test_a_key_that_differs_in_one_bit_does_not_open(plaintext, bit):
    other = bytearray(KEY)
    other[bit // 8] ^= 1 << bit % 8
    with pytest.raises(InvalidTag):
        open_sealed(seal(plaintext, AAD, KEY), AAD, bytes(other))


def test_no_single_flipped_bit_goes_unnoticed():
    blob = seal(b"meet at the harbour", AAD, KEY)
    for bit in range(len(blob) * 8):
        changed = bytearray(blob)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InvalidTag):
            open_sealed(bytes(changed), AAD, KEY)
    assert open_sealed(blob, AAD, KEY) == b"meet at the harbour"


def test_a_blob_cut_short_or_grown_does_not_open():
    blob = seal(b"meet at the harbour", AAD, KEY)
    for length in range(len(blob)):
        with pytest.raises(InvalidTag):
            open_sealed(blob[:length], AAD, KEY)
        with pytest.raises(InvalidTag):
            open_sealed(blob[-length:] if length else b"", AAD, KEY)
    with pytest.raises(InvalidTag):
        open_sealed(blob + b"\0", AAD, KEY)


def test_a_nonce_is_never_used_twice():
    cipher = AESGCM(KEY)
    nonces = {seal(b"", AAD, cipher)[:12] for _ in range(20_000)}
    assert len(nonces) == 20_000


@pytest.mark.parametrize("length", [0, 16, 24, 31, 33, 64])
def test_keys_of_another_length_are_refused(length):
    with pytest.raises(ValueError, match="32 bytes"):
        seal(b"x", AAD, bytes(length))
    with pytest.raises(ValueError, match="32 bytes"):
        open_sealed(bytes(40), AAD, bytes(length))


def test_associated_data_is_authenticated_by_default_as_empty():
    assert open_sealed(seal(b"x", key=KEY), b"", KEY) == b"x"
    with pytest.raises(InvalidTag):
        open_sealed(seal(b"x", AAD, KEY), key=KEY)


def in_base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


@pytest.fixture
def environment(monkeypatch):
    """Sets the key settings to exactly what a test says; all others of them are absent."""

    def set_to(**values: str) -> None:
        for name in ("MEMORY_ENCRYPTION_KEY", "MEMORY_ENCRYPTION_KEYS", "MEMORY_ENCRYPTION_ACTIVE_KEY",
                     "MEMORY_TENANT_HMAC_KEY"):  # fmt: skip
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(f"{name}_FILE", raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        master_keys.forget_parsed_keys()

    return set_to


def test_without_a_key_the_active_master_key_of_the_environment_seals_and_opens(environment):
    first, second = os.urandom(32), os.urandom(32)
    both = f"first:{in_base64(first)},second:{in_base64(second)}"
    environment(MEMORY_ENCRYPTION_KEYS=both, MEMORY_ENCRYPTION_ACTIVE_KEY="first")
    blob = seal(b"x", AAD)
    assert open_sealed(blob, AAD) == open_sealed(blob, AAD, first) == b"x"
    environment(MEMORY_ENCRYPTION_KEYS=both, MEMORY_ENCRYPTION_ACTIVE_KEY="second")
    with pytest.raises(InvalidTag):  # the other key would open it; it is never tried
        open_sealed(blob, AAD)
    assert open_sealed(seal(b"y", AAD), AAD, second) == b"y"


def test_without_a_key_and_without_a_master_key_nothing_is_sealed_or_opened(environment):
    environment()
    with pytest.raises(SettingError):
        seal(b"x", AAD)
    with pytest.raises(SettingError):
        open_sealed(bytes(40), AAD)


# Associated data

fields = st.lists(st.one_of(st.binary(max_size=12), st.text(max_size=12), st.integers()), max_size=5)


def as_bytes(value) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


@settings(deadline=None, max_examples=1000)
@given(fields, fields)
@example(["a", "bc"], ["ab", "c"])
@example(["a"], ["a", ""])
@example([], [""])
@example(["\0\0\0\1a"], ["", "a"])
@example([b"\0\0\0\1a", b""], [b"", b"\0\0\0\1a"])
def test_two_lists_of_fields_never_give_the_same_associated_data(one, other):
    same = [as_bytes(value) for value in one] == [as_bytes(value) for value in other]
    assert (associated_data(*one) == associated_data(*other)) is same


def test_the_layout_of_associated_data_is_frozen():
    assert associated_data("ab", b"\xff", 12) == b"\0\0\0\2ab" + b"\0\0\0\1\xff" + b"\0\0\0\2" + b"12"


# User ids

canonical_ids = (
    st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=128)
    .map(lambda text: unicodedata.normalize("NFC", text))
    .filter(lambda text: 1 <= len(text) <= 128 and text == text.strip())
)


@relaxed
@given(canonical_ids)
def test_a_canonical_id_is_taken_as_it_is_and_its_hash_is_hashlibs_hmac(user_id):
    assert canonical_user_id(user_id) == user_id
    expected = hmac.new(master_keys.tenant_hmac_key(), user_id.encode(), hashlib.sha256).hexdigest()
    assert hmac_user(user_id) == expected
    assert len(expected) == 64


REFUSED_IDS = {
    "empty": "",
    "none": None,
    "an integer": 42,
    "bytes": b"alice",
    "a list": ["alice"],
    "true": True,
    "a leading space": " alice",
    "a trailing newline": "alice\n",
    "a no-break space outside": "alice\u00a0",
    "an ideographic space outside": "\u3000alice",
    "NUL": "ali\0ce",
    "a control character": "ali\x1bce",
    "a C1 control character": "ali\x85ce",
    "delete": "ali\x7fce",
    "a lone surrogate": "ali\ud800ce",
    "decomposed": unicodedata.normalize("NFD", "zoë"),
    "a compatibility singleton": "\u212bngström",  # ANGSTROM SIGN, which NFC makes U+00C5
    "129 characters": "a" * 129,
    "10 kB": "a" * 10_240,
}


@pytest.mark.parametrize("user_id", REFUSED_IDS.values(), ids=REFUSED_IDS)
def test_an_id_that_is_not_canonical_is_refused_before_any_hash_is_computed(user_id, monkeypatch):
    computed = []
    monkeypatch.setattr(security.hmac, "new", lambda *args: computed.append(args))
    with pytest.raises(InvalidUserId) as refusal:
        hmac_user(user_id)
    assert computed == []
    if isinstance(user_id, str) and len(user_id) > 1:
        assert user_id not in str(refusal.value)


@relaxed
@given(st.text(max_size=140))
def test_an_id_is_either_taken_unchanged_or_refused(user_id):
    try:
        taken = canonical_user_id(user_id)
    except InvalidUserId:
        well_formed = (
            1 <= len(user_id) <= 128
            and user_id == user_id.strip()
            and unicodedata.normalize("NFC", user_id) == user_id
            and not any(unicodedata.category(char) in ("Cc", "Cs") for char in user_id)
        )
        assert not well_formed
    else:
        assert taken == user_id == unicodedata.normalize("NFC", user_id).strip()
        taken.encode()


def test_ids_of_one_and_of_128_characters_are_canonical():
    for user_id in ("a", "é" * 128, "zoë@example.org", "a b", "用户", "👩‍👩‍👧"):
        assert canonical_user_id(user_id) == user_id


def test_the_hash_depends_on_the_hmac_key(environment):
    hashes = set()
    for _ in range(3):
        environment(MEMORY_TENANT_HMAC_KEY=in_base64(os.urandom(32)))
        hashes.add(hmac_user("alice"))
    assert len(hashes) == 3


# Master keys


def test_a_single_master_key_is_called_k1(environment):
    key = os.urandom(32)
    environment(MEMORY_ENCRYPTION_KEY=in_base64(key))
    keys = master_keys.master_keys()
    assert (keys.active_id, keys.active, keys.by_id("k1")) == ("k1", key, key)


def test_of_several_master_keys_the_named_one_is_active_and_all_are_known(environment):
    old, new = os.urandom(32), os.urandom(32)
    environment(
        MEMORY_ENCRYPTION_KEYS=f" 2024:{in_base64(old)} , 2025-a.b_c:{in_base64(new)} ",
        MEMORY_ENCRYPTION_ACTIVE_KEY="2025-a.b_c",
    )
    keys = master_keys.master_keys()
    assert keys.active == new
    assert keys.by_id("2024") == old
    with pytest.raises(KeyUnavailable):
        keys.by_id("k1")


def test_url_safe_base64_is_the_same_key():
    key = b"\xfb\xff" * 2 + hashlib.sha256(b"a key of this test").digest()[:28]
    safe = base64.urlsafe_b64encode(key).decode()
    assert "-" in safe or "_" in safe
    assert master_keys.parse_master_keys(safe, "", "").active == key


GOOD = in_base64(hashlib.sha256(b"a good key").digest())
REFUSED_KEYS = {
    "none": ("", "", ""),
    "both forms": (GOOD, f"a:{GOOD}", "a"),
    "31 bytes": (in_base64(bytes(range(31))), "", ""),
    "33 bytes": (in_base64(bytes(range(33))), "", ""),
    "a hex key": (bytes(range(32)).hex(), "", ""),
    "not base64": ("!" * 44, "", ""),
    "base64 without padding": (GOOD.rstrip("="), "", ""),
    "zeros": (in_base64(bytes(32)), "", ""),
    "a repeated pattern": (in_base64(b"changeme" * 4), "", ""),
    "several without an active one": ("", f"a:{GOOD}", ""),
    "an active one that is not there": ("", f"a:{GOOD}", "b"),
    "one id twice": ("", f"a:{GOOD},a:{in_base64(bytes(range(32)))}", "a"),
    "no colon": ("", GOOD, "a"),
    "an empty id": ("", f":{GOOD}", ""),
    "an id with a space": ("", f"a b:{GOOD}", "a b"),
    "an id of 65 characters": ("", f"{'a' * 65}:{GOOD}", "a" * 65),
    "a trailing comma": ("", f"a:{GOOD},", "a"),
    "one weak among several": ("", f"a:{GOOD},b:{in_base64(bytes(32))}", "a"),
    "one short among several": ("", f"a:{GOOD},b:{in_base64(bytes(range(16)))}", "a"),
}


@pytest.mark.parametrize("texts", REFUSED_KEYS.values(), ids=REFUSED_KEYS)
def test_master_keys_that_cannot_be_meant_are_refused_without_quoting_them(texts):
    with pytest.raises(SettingError, match="MEMORY_ENCRYPTION_") as refusal:
        master_keys.parse_master_keys(*texts)
    for text in texts:
        for secret in text.replace(",", ":").split(":"):
            assert len(secret) < 20 or secret not in str(refusal.value)


def test_the_keys_do_not_show_in_a_repr():
    keys = master_keys.parse_master_keys(GOOD, "", "")
    assert repr(keys.active) not in repr(keys) and GOOD not in repr(keys)


@pytest.mark.parametrize("text", ["", in_base64(bytes(range(31))), in_base64(bytes(64)), "not base64!"])
def test_a_missing_or_weak_hmac_key_is_refused(environment, text):
    environment(MEMORY_TENANT_HMAC_KEY=text)
    with pytest.raises(SettingError, match="MEMORY_TENANT_HMAC_KEY"):
        hmac_user("alice")


# Secrets in files


@pytest.fixture
def named(monkeypatch, tmp_path):
    """The name of a secret nobody else uses, and the file it may lie in."""
    monkeypatch.delenv("R1_TEST_SECRET", raising=False)
    monkeypatch.delenv("R1_TEST_SECRET_FILE", raising=False)
    return "R1_TEST_SECRET", tmp_path / "secret"


def test_a_secret_that_is_not_set_is_empty(named):
    assert Secret(named[0]).value() == ""


def test_a_secret_comes_from_the_environment_without_its_newline(named, monkeypatch):
    monkeypatch.setenv(named[0], " value\n")
    assert Secret(named[0]).value() == "value"


def test_a_secret_whose_file_others_may_open_is_named_until_it_is_closed(named, monkeypatch):
    name, path = named
    path.write_text("from the file")
    monkeypatch.setenv(f"{name}_FILE", str(path))
    Secret(name).value()
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        assert name in exposed_secrets()
    path.chmod(0o600)
    assert name not in exposed_secrets()
    path.unlink()
    assert name not in exposed_secrets()


def test_a_secret_comes_from_its_file_without_its_newline(named, monkeypatch):
    name, path = named
    path.write_text("from the file\n")
    monkeypatch.setenv(f"{name}_FILE", str(path))
    assert Secret(name).value() == "from the file"


def test_a_secret_in_both_forms_is_refused_without_quoting_it(named, monkeypatch):
    name, path = named
    path.write_text("from the file")
    monkeypatch.setenv(name, "from the environment")
    monkeypatch.setenv(f"{name}_FILE", str(path))
    with pytest.raises(SettingError, match=f"{name} or {name}_FILE") as refusal:
        Secret(name).value()
    assert "from the" not in str(refusal.value)


def test_a_changed_file_is_read_again_once_its_time_has_come(named, monkeypatch):
    name, path = named
    path.write_text("old")
    monkeypatch.setenv(f"{name}_FILE", str(path))
    patient, eager = Secret(name), Secret(name, reread_seconds=0.05)
    assert patient.value() == eager.value() == "old"
    path.write_text("new")
    time.sleep(0.06)
    assert eager.value() == "new"
    assert patient.value() == "old"


def test_another_file_is_read_at_once(named, monkeypatch):
    name, path = named
    path.write_text("old")
    other = path.with_name("other")
    other.write_text("new")
    secret = Secret(name)
    monkeypatch.setenv(f"{name}_FILE", str(path))
    assert secret.value() == "old"
    monkeypatch.setenv(f"{name}_FILE", str(other))
    assert secret.value() == "new"


def test_a_file_that_vanishes_or_breaks_keeps_its_last_value(named, monkeypatch):
    name, path = named
    path.write_text("kept")
    monkeypatch.setenv(f"{name}_FILE", str(path))
    secret = Secret(name, reread_seconds=0.0)
    assert secret.value() == "kept"
    path.unlink()
    assert secret.value() == "kept"
    for half_written in (b"\xff\xfe", b"", b"a" * (SECRET_FILE_MAX_BYTES + 1)):
        path.write_bytes(half_written)
        assert secret.value() == "kept"
    path.write_text("back")
    assert secret.value() == "back"


def test_a_file_that_never_was_readable_is_refused_without_its_path(named, monkeypatch):
    name, path = named
    monkeypatch.setenv(f"{name}_FILE", str(path))
    with pytest.raises(SettingError, match=f"{name}_FILE") as refusal:
        Secret(name).value()
    assert str(path) not in str(refusal.value)


def test_a_file_that_is_no_secret_by_its_size_is_refused(named, monkeypatch):
    name, path = named
    path.write_bytes(b"a" * (SECRET_FILE_MAX_BYTES + 1))
    monkeypatch.setenv(f"{name}_FILE", str(path))
    with pytest.raises(SettingError, match="too large"):
        Secret(name).value()


def test_a_secret_does_not_show_in_its_repr(named, monkeypatch):
    monkeypatch.setenv(named[0], "hidden")
    secret = Secret(named[0])
    assert secret.value() == "hidden"
    assert "hidden" not in repr(secret)


def test_promoting_a_master_key_in_its_file_needs_no_restart(environment, monkeypatch, tmp_path):
    old, new = os.urandom(32), os.urandom(32)
    active = tmp_path / "active"
    active.write_text("old\n")
    environment(
        MEMORY_ENCRYPTION_KEYS=f"old:{in_base64(old)},new:{in_base64(new)}",
        MEMORY_ENCRYPTION_ACTIVE_KEY_FILE=str(active),
    )
    monkeypatch.setattr(master_keys._active, "_reread_seconds", 0.0)
    before = seal(b"x", AAD)
    active.write_text("new\n")
    after = seal(b"x", AAD)
    assert open_sealed(before, AAD, old) == open_sealed(after, AAD, new) == b"x"


def test_no_users_hash_is_the_check_of_the_tenant_key(environment):
    environment(MEMORY_TENANT_HMAC_KEY=in_base64(os.urandom(32)))
    check = master_keys.tenant_key_check()
    assert len(check) == 32
    assert hmac_user("tenant-key-check") != check.hex()
    environment(MEMORY_TENANT_HMAC_KEY=in_base64(os.urandom(32)))
    assert master_keys.tenant_key_check() != check
