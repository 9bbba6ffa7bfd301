"""A token that was found good is not verified anew, and is as good as it would be if it were."""

from __future__ import annotations

import time

import jwt
import pytest

from memory.auth import claims as claim_rules
from memory.auth import tokens
from memory.auth.jwks import LIFETIME_SECONDS, MAX_AGE_SECONDS
from memory.errors import KeyUnavailable
from tests.unit.test_tokens import (  # noqa: F401
    OTHER_KEYS,
    PRIVATE_KEYS,
    SECRET,
    Clock,
    by_issuer,
    claims,
    hs256_of,
    issuer,
    jwk,
    refusal_reason,
    signed,
    symmetric,
)


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The tokens whose signature and claims were looked at, in turn."""
    seen, decode = [], claim_rules._DECODER.decode_complete

    def seeing(token, *rest, **more):
        seen.append(token)
        return decode(token, *rest, **more)

    monkeypatch.setattr(claim_rules._DECODER, "decode_complete", seeing)
    return seen


def at(monkeypatch, moment: float) -> None:
    monkeypatch.setattr(time, "time", lambda: moment)


def test_a_good_token_is_verified_once_and_says_the_same_each_time(decoded):
    verifier, token = symmetric(), hs256_of(scope="memory:read")
    first = verifier.verify(token)
    assert verifier.verify(token) == first and first.scopes == {"memory:read"}
    assert decoded == [token]
    assert symmetric().verify(token) == first and len(decoded) == 2, "each verifier remembers for itself"


def test_a_remembered_token_ends_when_it_ends(monkeypatch):
    verifier, now = symmetric(), time.time()
    token = hs256_of(exp=now + 60)
    verifier.verify(token)
    at(monkeypatch, now + 60 + 29.9)
    assert verifier.verify(token).user_id == "alice"
    at(monkeypatch, now + 60 + 30)
    assert refusal_reason(verifier, token) == "expired"


def test_where_the_clock_was_put_back_behind_it_a_token_is_verified_anew(monkeypatch, decoded):
    verifier, token, now = symmetric(), hs256_of(), time.time()
    verifier.verify(token)
    at(monkeypatch, now - 60)
    verifier.verify(token)
    assert decoded == [token, token]


def test_what_was_refused_is_refused_again_and_a_good_token_vouches_for_no_other(decoded):
    verifier, token = symmetric(), hs256_of()
    head, body, signature = token.split(".")
    verifier.verify(token)
    for _ in range(2):
        for forged in (f"{head}.{body}.{signature[:-2]}AA", f"{head}.{hs256_of(sub='bob').split('.')[1]}.{signature}"):
            assert refusal_reason(verifier, forged) == "signature"
        assert refusal_reason(verifier, token + "=") == "format"
    assert len(decoded) == 5 and verifier.verify(token).user_id == "alice"


@pytest.mark.parametrize("withdrawn", [True, False], ids=["withdrawn", "another of its name"])
def test_a_remembered_token_is_no_better_than_its_issuers_key(issuer, withdrawn):  # noqa: F811
    issuer.publish(jwk("RS256", "k"))
    verifier, clock = by_issuer(issuer), Clock()
    verifier._jwks._clock = clock
    token = signed("RS256", "k")
    assert verifier.verify(token) == verifier.verify(token)
    issuer.publish(*([] if withdrawn else [jwk("RS256", "k", OTHER_KEYS)]), jwk("ES256", "e"))
    clock.now += LIFETIME_SECONDS + 1
    verifier.verify(signed("ES256", "e"))
    assert refusal_reason(verifier, token) == ("key" if withdrawn else "signature")


def test_no_more_tokens_are_remembered_than_may_be_and_none_as_it_is(monkeypatch, decoded):
    monkeypatch.setattr(tokens, "REMEMBERED_MAX", 3)
    verifier = symmetric()
    for number in range(20):
        token = hs256_of(sub=f"user{number}")
        assert verifier.verify(token).user_id == f"user{number}"
        assert len(verifier._remembered) <= 3
    assert len(decoded) == 20
    kept = repr(verifier._remembered)
    assert token not in kept and token.split(".")[2] not in kept and str(SECRET) not in kept


@pytest.mark.parametrize("changes", [{"scope": [f"s{nth}" for nth in range(9)]}, {"padding": "x" * 1000}])
def test_a_token_that_would_take_much_memory_is_verified_each_time(decoded, changes):
    verifier, token = symmetric(), hs256_of(**changes)
    assert verifier.verify(token) == verifier.verify(token)
    assert decoded == [token, token] and not verifier._remembered


def test_a_remembered_token_without_a_key_id_is_refused_where_a_second_key_appears(issuer):  # noqa: F811
    issuer.publish(jwk("RS256", "k"))
    verifier, clock, token = by_issuer(issuer), Clock(), signed("RS256", None)
    verifier._jwks._clock = clock
    verifier.verify(token)
    issuer.publish(jwk("RS256", "k"), jwk("RS256", "k2", OTHER_KEYS))
    clock.now += LIFETIME_SECONDS + 1
    verifier.verify(signed("RS256", "k"))
    assert refusal_reason(verifier, token) == "key"


def test_a_remembered_token_waits_for_an_issuer_whose_keys_are_too_old(issuer):  # noqa: F811
    issuer.publish(jwk("RS256", "k"))
    verifier, clock, token = by_issuer(issuer), Clock(), signed("RS256", "k")
    verifier._jwks._clock = clock
    verifier.verify(token)
    issuer.status = 500
    clock.now += MAX_AGE_SECONDS + 1
    with pytest.raises(KeyUnavailable):
        verifier.verify(token)


def test_keys_of_before_are_let_go_with_what_they_verified(issuer):  # noqa: F811
    issuer.publish(jwk("RS256", "k"))
    verifier, clock = by_issuer(issuer), Clock()
    verifier._jwks._clock = clock
    tokens_of_two = [signed("RS256", "k"), jwt.encode(claims(sub="bob"), PRIVATE_KEYS["RS256"], "RS256", {"kid": "k"})]
    assert [verifier.verify(token).user_id for token in tokens_of_two] == ["alice", "bob"]
    clock.now += LIFETIME_SECONDS + 1
    verifier.verify(tokens_of_two[0])  # asks for the keys, in the background or now
    verifier._jwks.key("k", "RS256")
    verifier.verify(tokens_of_two[0])
    assert len({id(remembered.key) for remembered in verifier._remembered.values()}) == 1


def test_a_library_error_is_remembered_by_nothing(monkeypatch):
    verifier = symmetric()

    def fails(*args, **more):
        raise jwt.DecodeError("wrong")

    with monkeypatch.context() as patched:
        patched.setattr(claim_rules._DECODER, "decode_complete", fails)
        assert refusal_reason(verifier, hs256_of()) == "format"
    assert not verifier._remembered
