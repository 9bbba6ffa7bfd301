"""Bearer tokens: who may say who the user is."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.auth.jwks import (
    FAILED_FETCH_PAUSE_SECONDS,
    LIFETIME_SECONDS,
    MAX_AGE_SECONDS,
    UNKNOWN_KID_REFETCH_SECONDS,
    JwksCache,
)
from memory.auth.mint import mint
from memory.auth.tokens import TOKEN_MAX_BYTES, TokenVerifier, bearer_token
from memory.errors import ExpiredToken, InvalidToken, InvalidUserId, KeyUnavailable, MissingToken, TokenLivesTooLong
from memory.keys.secret_files import SettingError
from memory.keys.secret_strength import weak_secret_reason

SECRET = hashlib.sha256(b"token tests").digest()
ISSUER = "https://issuer.test/"
AUDIENCE = "memory"
PRIVATE_KEYS = {
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
OTHER_KEYS = {
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def pem(algorithm: str) -> bytes:
    return (
        PRIVATE_KEYS[algorithm]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def der(algorithm: str) -> bytes:
    return (
        PRIVATE_KEYS[algorithm]
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def symmetric() -> TokenVerifier:
    return TokenVerifier(["HS256"], secret=SECRET, issuer=ISSUER, audience=AUDIENCE)


def asymmetric(algorithm: str) -> TokenVerifier:
    return TokenVerifier([algorithm], public_key=pem(algorithm), issuer=ISSUER, audience=AUDIENCE)


def claims(**changes: object) -> dict[str, object]:
    """Good claims; a change to None removes one."""
    now = int(time.time())
    good = {"sub": "alice", "iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 600}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def segment(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def hs256(payload: bytes, header: bytes = b'{"alg":"HS256","typ":"JWT"}', key: bytes = SECRET) -> str:
    """A token made by hand, for the claims and headers that PyJWT would not write."""
    signed = f"{segment(header)}.{segment(payload)}"
    return f"{signed}.{segment(hmac.new(key, signed.encode(), hashlib.sha256).digest())}"


def hs256_of(header: dict[str, object] | None = None, **changes: object) -> str:
    head = {"alg": "HS256", "typ": "JWT", **(header or {})}
    return hs256(json.dumps(claims(**changes)).encode(), json.dumps(head).encode())


def refusal_reason(verifier: TokenVerifier, token: str) -> str:
    with pytest.raises(InvalidToken) as refusal:
        verifier.verify(token)
    told = {"expired": ExpiredToken, "lifetime": TokenLivesTooLong}.get(refusal.value.reason, InvalidToken)
    assert (type(refusal.value), refusal.value.detail) == (told, told().detail)
    return refusal.value.reason


# Good tokens


def test_a_token_signed_with_the_secret_names_its_user_and_has_every_scope():
    now = time.time()
    verified = symmetric().verify(hs256_of())
    assert verified.user_id == "alice"
    assert verified.scopes is None
    assert now < verified.expires_at <= now + 601


@pytest.mark.parametrize("algorithm", PRIVATE_KEYS)
def test_a_token_signed_with_a_private_key_verifies_with_the_public_one(algorithm):
    token = jwt.encode(claims(), PRIVATE_KEYS[algorithm], algorithm=algorithm)
    assert asymmetric(algorithm).verify(token).user_id == "alice"
    forged = jwt.encode(claims(), OTHER_KEYS[algorithm], algorithm=algorithm)
    assert refusal_reason(asymmetric(algorithm), forged) == "signature"


@pytest.mark.parametrize("algorithm", PRIVATE_KEYS)
@pytest.mark.parametrize(
    "change", [lambda raw: raw[:-1], lambda raw: raw + b"x", lambda raw: raw * 9, lambda raw: b"x"]
)
def test_a_signature_of_another_length_is_a_wrong_signature(algorithm, change):
    head, body, signature = jwt.encode(claims(), PRIVATE_KEYS[algorithm], algorithm=algorithm).split(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    assert refusal_reason(asymmetric(algorithm), f"{head}.{body}.{segment(change(raw))}") == "signature"


def test_a_minted_token_verifies_with_its_scopes():
    token = mint(
        "alice",
        secret=SECRET,
        algorithm="HS256",
        issuer=ISSUER,
        audience=AUDIENCE,
        ttl_seconds=60,
        scope=["memory:read", "memory:write"],
    )
    verified = symmetric().verify(token)
    assert verified.user_id == "alice"
    assert verified.scopes == {"memory:read", "memory:write"}
    with pytest.raises(InvalidUserId):
        mint(" alice", secret=SECRET, algorithm="HS256", issuer=ISSUER, audience=AUDIENCE, ttl_seconds=60)
    with pytest.raises(SettingError):
        mint("alice", secret=b"short", algorithm="HS256", issuer=ISSUER, audience=AUDIENCE, ttl_seconds=60)
    with pytest.raises(SettingError):
        mint("alice", secret=SECRET, algorithm="RS256", issuer=ISSUER, audience=AUDIENCE, ttl_seconds=60)
    with pytest.raises(SettingError):
        mint("alice", secret=SECRET, algorithm="HS256", issuer=ISSUER, audience=AUDIENCE, ttl_seconds=0)


# Signatures and headers


@pytest.mark.parametrize("name", ["none", "None", "nOnE", "", "hs256", "Hs256", "HS512", "RS256", None, 1, ["HS256"]])
def test_an_algorithm_outside_the_allow_list_is_refused(name):
    token = hs256_of({"alg": name})
    for signature in ("", segment(b"x"), token.split(".")[2]):
        assert refusal_reason(symmetric(), ".".join([*token.split(".")[:2], signature])) == "algorithm"


def test_a_header_without_algorithm_is_refused():
    assert refusal_reason(symmetric(), hs256(json.dumps(claims()).encode(), b'{"typ":"JWT"}')) == "algorithm"


def test_an_empty_or_changed_signature_is_refused():
    head, body, signature = hs256_of().split(".")
    assert symmetric().verify(f"{head}.{body}.{signature}").user_id == "alice"
    assert refusal_reason(symmetric(), f"{head}.{body}.") == "format"
    assert refusal_reason(symmetric(), f"{head}.{body}.{segment(b'x' * 32)}") == "signature"
    other = segment(json.dumps(claims(sub="mallory")).encode())
    assert refusal_reason(symmetric(), f"{head}.{other}.{signature}") == "signature"


@pytest.mark.parametrize("algorithm", PRIVATE_KEYS)
@pytest.mark.parametrize("encode", [pem, der, lambda name: segment(der(name)).encode(), lambda name: pem(name).strip()])
def test_a_public_key_is_never_an_hmac_secret(algorithm, encode):
    public = encode(algorithm)
    forged = hs256(json.dumps(claims()).encode(), key=public)
    assert refusal_reason(asymmetric(algorithm), forged) == "algorithm"
    with pytest.raises(SettingError):
        TokenVerifier(["HS256"], secret=public, issuer=ISSUER, audience=AUDIENCE)
    with pytest.raises(SettingError):
        mint("alice", secret=public, algorithm="HS256", issuer=ISSUER, audience=AUDIENCE, ttl_seconds=60)


def test_a_json_web_key_is_never_an_hmac_secret():
    with pytest.raises(SettingError):
        TokenVerifier(["HS256"], secret=jwk("ES256", "a"), issuer=ISSUER, audience=AUDIENCE)


@pytest.mark.parametrize(
    "configuration",
    [
        {"algorithms": ["HS256", "RS256"], "secret": SECRET},
        {"algorithms": ["HS256", "RS256"], "public_key": pem("RS256")},
        {"algorithms": ["HS256"], "public_key": pem("RS256")},
        {"algorithms": ["ES256"], "public_key": pem("RS256")},
        {"algorithms": ["RS256", "ES256"], "public_key": pem("RS256")},
        {"algorithms": ["RS256"], "secret": SECRET},
        {"algorithms": ["HS256"], "secret": SECRET, "public_key": pem("RS256")},
        {"algorithms": ["HS256"], "jwks_url": "https://issuer.test/keys"},
        {"algorithms": ["HS256", "RS256"], "jwks_url": "https://issuer.test/keys"},
        {"algorithms": ["RS256"], "jwks_url": "file:///etc/passwd"},
        {"algorithms": ["RS256"], "jwks_url": "/etc/passwd"},
        {"algorithms": ["none"], "secret": SECRET},
        {"algorithms": [], "secret": SECRET},
        {"algorithms": ["HS256"]},
        {"algorithms": ["HS256"], "secret": b"too short"},
        {"algorithms": ["RS256"], "public_key": b"not a key"},
    ],
)
def test_a_configuration_that_mixes_families_or_lacks_a_key_is_refused(configuration):
    with pytest.raises(SettingError) as refusal:
        TokenVerifier(**configuration, issuer=ISSUER, audience=AUDIENCE)
    assert SECRET.hex() not in str(refusal.value)


def test_a_private_key_or_a_short_one_is_no_public_key():
    private = PRIVATE_KEYS["RS256"].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()
    short_pem = short.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for key in (private, short_pem):
        with pytest.raises(SettingError):
            TokenVerifier(["RS256"], public_key=key, issuer=ISSUER, audience=AUDIENCE)


@pytest.mark.parametrize(
    "extra",
    [
        {"crit": ["exp"]},
        {"crit": []},
        {"jku": "https://evil.test/keys"},
        {"x5u": "https://evil.test/cert"},
        {"x5c": ["MIIB"]},
        {"jwk": {"kty": "oct", "k": "AAAA"}},
        {"b64": False},
        {"kid": 1},
        {"kid": None},
    ],
)
def test_a_header_that_brings_its_own_key_or_rules_is_refused(extra):
    assert refusal_reason(symmetric(), hs256_of(extra)) == "header"


def test_a_key_id_means_nothing_where_there_is_one_key():
    assert symmetric().verify(hs256_of({"kid": "../../../../dev/null"})).user_id == "alice"


@pytest.mark.parametrize("kid", ["../../../../dev/null", "", "2024 ", "2025", "https://evil.test/key"])
def test_a_key_that_has_an_id_is_not_used_under_another(kid):
    named = TokenVerifier(["HS256"], secret=SECRET, issuer=ISSUER, audience=AUDIENCE, key_id="2024")
    assert refusal_reason(named, hs256_of({"kid": kid})) == "key"
    assert named.verify(hs256_of({"kid": "2024"})).user_id == "alice"
    assert named.verify(hs256_of()).user_id == "alice", "the signature decides"
    assert refusal_reason(named, hs256(json.dumps(claims()).encode(), key=b"x" * 32)) == "signature"


def test_a_public_key_has_an_id_too_and_a_key_set_its_own():
    named = TokenVerifier(["ES256"], public_key=pem("ES256"), issuer=ISSUER, audience=AUDIENCE, key_id="e")
    assert named.verify(signed("ES256", "e")).user_id == "alice"
    assert refusal_reason(named, signed("ES256", "f")) == "key"
    with pytest.raises(SettingError):
        TokenVerifier(["ES256"], jwks_url="https://issuer.test/k", issuer=ISSUER, audience=AUDIENCE, key_id="e")


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "Application/JWT"])
def test_a_token_is_a_jwt_or_an_access_token(typ):
    assert symmetric().verify(hs256_of({"typ": typ})).user_id == "alice"


def test_a_token_need_not_say_its_type():
    assert symmetric().verify(hs256(json.dumps(claims()).encode(), b'{"alg":"HS256"}')).user_id == "alice"


@pytest.mark.parametrize(
    "typ", ["", "JWS", "JOSE", "dpop+jwt", "logout+jwt", "secevent+jwt", "jwt ", "text/jwt", None, 1, ["JWT"], {}]
)
def test_a_token_of_another_type_is_refused(typ):
    assert refusal_reason(symmetric(), hs256_of({"typ": typ})) == "type"


# Claims


@pytest.mark.parametrize("name", ["exp", "iat", "sub", "iss", "aud"])
def test_every_required_claim_is_required(name):
    assert refusal_reason(symmetric(), hs256_of(**{name: None}))


def test_expiry_and_start_have_a_leeway_of_thirty_seconds():
    now = int(time.time())
    assert symmetric().verify(hs256_of(iat=now - 600, exp=now - 20)).user_id == "alice"
    assert symmetric().verify(hs256_of(iat=now + 20, nbf=now + 20)).user_id == "alice"
    assert refusal_reason(symmetric(), hs256_of(iat=now - 600, exp=now - 31)) == "expired"
    assert refusal_reason(symmetric(), hs256_of(iat=now + 60)) == "not_yet_valid"
    assert refusal_reason(symmetric(), hs256_of(nbf=now + 60)) == "not_yet_valid"


def test_a_token_lives_no_longer_than_is_allowed():
    bounded = TokenVerifier(["HS256"], secret=SECRET, issuer=ISSUER, audience=AUDIENCE, max_seconds=900)
    now = int(time.time())
    assert bounded.verify(hs256_of(iat=now - 800, exp=now + 100)).user_id == "alice"
    assert refusal_reason(bounded, hs256_of(iat=now - 800, exp=now + 101)) == "lifetime"
    assert refusal_reason(bounded, hs256_of(exp=253402300799)) == "lifetime"
    assert symmetric().verify(hs256_of(exp=253402300799)).user_id == "alice", "unless told so, any"


@pytest.mark.parametrize(
    ("change", "reason"), [({"aud": "other"}, "audience"), ({"iss": "other"}, "issuer"), ({"sub": ""}, "subject")]
)
def test_only_a_token_that_its_issuer_signed_for_us_is_told_that_it_has_expired(change, reason):
    bounded = TokenVerifier(["HS256"], secret=SECRET, issuer=ISSUER, audience=AUDIENCE, max_seconds=900)
    past = {"iat": int(time.time()) - 5000, "exp": int(time.time()) - 60}
    assert refusal_reason(bounded, hs256_of(**past)) == "expired"
    assert refusal_reason(bounded, hs256_of(**past, **change)) == reason
    assert refusal_reason(bounded, hs256(json.dumps(claims(**past)).encode(), key=b"x" * 32)) == "signature"


@pytest.mark.parametrize("claim", ["exp", "iat", "nbf"])
@pytest.mark.parametrize("value", ["true", "null", '"1"', "-1", "[]", "{}", "1e300", "9" * 400, "253402300800"])
def test_a_time_that_is_no_time_is_refused(claim, value):
    payload = json.dumps(claims(**{claim: 12345678})).replace("12345678", value).encode()
    assert refusal_reason(symmetric(), hs256(payload)) == "time"


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
def test_a_time_that_is_not_json_is_refused(value):
    payload = json.dumps(claims(exp=12345678)).replace("12345678", value).encode()
    assert refusal_reason(symmetric(), hs256(payload)) == "format"


@pytest.mark.parametrize("jti", ["one", 1, ["one"], True])
def test_a_tokens_own_id_means_nothing_here(jti):
    assert symmetric().verify(hs256_of(jti=jti)).user_id == "alice"


def test_a_time_with_a_fraction_is_a_time():
    assert symmetric().verify(hs256_of(exp=time.time() + 60.5)).user_id == "alice"


@pytest.mark.parametrize("audience", [AUDIENCE, [AUDIENCE], ["other", AUDIENCE]])
def test_an_audience_that_holds_ours_is_accepted(audience):
    assert symmetric().verify(hs256_of(aud=audience)).user_id == "alice"


@pytest.mark.parametrize(
    "audience", ["", "Memory", "memory2", [], ["other"], [AUDIENCE, 1], [[AUDIENCE]], 1, True, {AUDIENCE: 1}]
)
def test_an_audience_without_ours_is_refused(audience):
    assert refusal_reason(symmetric(), hs256_of(aud=audience)) == "audience"


@pytest.mark.parametrize("issuer", ["", ISSUER.rstrip("/"), ISSUER.upper(), 1, True, [ISSUER], {"iss": ISSUER}])
def test_any_other_issuer_is_refused(issuer):
    assert refusal_reason(symmetric(), hs256_of(iss=issuer)) == "issuer"


@pytest.mark.parametrize(
    "subject",
    [
        "",
        7,
        7.5,
        True,
        ["alice"],
        {"id": "alice"},
        "a" * 129,
        "a\x00b",
        "a\nb",
        "\ud800",
        "e\u0301",
        " alice",
        "alice\u3000",
    ],
)
def test_a_subject_that_is_no_canonical_user_id_is_refused(subject):
    assert refusal_reason(symmetric(), hs256_of(sub=subject)) == "subject"


def test_a_subject_of_ten_kilobytes_makes_the_token_too_long():
    assert refusal_reason(symmetric(), hs256_of(sub="a" * 10_000)) == "size"
    assert refusal_reason(symmetric(), "a" * (TOKEN_MAX_BYTES + 1)) == "size"


@pytest.mark.parametrize("name", ["sub", "exp", "iss"])
def test_a_repeated_claim_is_refused_even_with_the_same_value(name):
    good = claims()
    member = f'"{name}": {json.dumps(good[name])}'
    payload = json.dumps(good)
    assert symmetric().verify(hs256(payload.encode())).user_id == "alice"
    assert refusal_reason(symmetric(), hs256(payload.replace("{", "{" + member + ",", 1).encode())) == "format"


def test_a_repeated_header_member_is_refused():
    header = b'{"alg":"none","alg":"HS256"}'
    assert refusal_reason(symmetric(), hs256(json.dumps(claims()).encode(), header)) == "format"


@pytest.mark.parametrize(
    ("scope", "scopes"),
    [("memory:read", {"memory:read"}), ("a  b", {"a", "b"}), (["a", "b"], {"a", "b"}), ("", set()), ([], set())],
)
def test_a_scope_claim_limits_what_the_token_allows(scope, scopes):
    assert symmetric().verify(hs256_of(scope=scope)).scopes == scopes


@pytest.mark.parametrize("scope", ["null", "1", "true", '{"a":1}', '["a",1]', '[["a"]]'])
def test_a_scope_claim_of_another_type_is_refused(scope):
    payload = json.dumps(claims(scope="SCOPE")).replace('"SCOPE"', scope).encode()
    assert refusal_reason(symmetric(), hs256(payload)) == "scope"


# Malformed tokens


def test_base64url_has_one_spelling():
    head, body, signature = hs256_of().split(".")
    for spelling in (
        signature + "=",
        " " + signature,
        signature + "\n",
        "é" + signature,
    ):
        assert refusal_reason(symmetric(), f"{head}.{body}.{spelling}") == "format"
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    twin = signature[:-1] + last[last.index(signature[-1]) ^ 1]
    assert base64.urlsafe_b64decode(twin + "=") == base64.urlsafe_b64decode(signature + "=")
    assert refusal_reason(symmetric(), f"{head}.{body}.{twin}") == "format"


@pytest.mark.parametrize("token", ["", ".", "..", "...", "a.b", "a.b.c.d", "\x00.\x00.\x00", "é.é.é"])
def test_what_is_no_compact_signature_is_refused(token):
    assert refusal_reason(symmetric(), token) == "format"


@pytest.mark.parametrize("header", [b"", b"[]", b"null", b"{", b"[" * 3000, b'{"alg":"HS256"}x', b"\xff"])
def test_a_header_that_is_no_json_object_is_refused(header):
    assert refusal_reason(symmetric(), hs256(json.dumps(claims()).encode(), header)) == "format"


@settings(deadline=None)
@given(st.text(max_size=300) | st.builds(".".join, st.lists(st.text(max_size=40), min_size=3, max_size=3)))
def test_no_text_raises_anything_but_the_refusal(text):
    with pytest.raises(InvalidToken):
        symmetric().verify(text)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["sub", "iss", "aud", "exp", "iat", "nbf", "scope"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=20)
        | st.lists(st.text()),
        min_size=1,
    )
)
def test_no_signed_claims_raise_anything_but_the_refusal(changes):
    payload = json.dumps({**claims(), **changes}).encode()
    try:
        verified = symmetric().verify(hs256(payload))
    except InvalidToken:
        return
    assert verified.user_id == changes.get("sub", "alice")


# The Authorization header


@pytest.mark.parametrize("value", ["Bearer abc.def-_~+/==", "bearer abc.def-_~+/==", "BEARER   abc.def-_~+/=="])
def test_the_scheme_is_case_insensitive(value):
    assert bearer_token(value) == "abc.def-_~+/=="


@pytest.mark.parametrize("value", [None, "", "Bearer", "Bearer ", "Basic YTpi", "abc", "Bearerabc", "Token abc"])
def test_a_header_without_bearer_token_is_a_missing_token(value):
    with pytest.raises(MissingToken):
        bearer_token(value)


@pytest.mark.parametrize(
    "value",
    ["Bearer a b", "Bearer a,Bearer b", "Bearer a\tb", "Bearer é", "Bearer a\x00", "Bearer =", "Bearer " + "a" * 9000],
)
def test_a_header_with_more_than_one_token_is_an_invalid_token(value):
    with pytest.raises(InvalidToken):
        bearer_token(value)


# Secrets


@pytest.mark.parametrize(
    "secret",
    [
        b"",
        b"a" * 31,
        b"a" * 64,
        b"ab" * 32,
        b"0123456789abcdef" * 2,
        b"0123456789abcdef" * 2 + b"01234",
        b"abcdefghijklmnopqrstuvwxyz0123456789",
        bytes(range(64)),
        b"change-me-change-me-before-production",
        b"django-insecure-u8#k2l9x!q0w7e5r3t1y",
        b"your-256-bit-secret-goes-right-here-ok",
    ],
)
def test_a_secret_that_can_be_guessed_is_weak(secret):
    assert weak_secret_reason(secret)
    with pytest.raises(SettingError):
        TokenVerifier(["HS256"], secret=secret, issuer=ISSUER, audience=AUDIENCE)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=40))
def test_a_digest_is_a_strong_secret_in_bytes_hex_and_base64(seed):
    digest = hashlib.sha256(seed).digest()
    for secret in (digest, digest.hex().encode(), base64.b64encode(digest)):
        assert weak_secret_reason(secret) is None
    assert "bytes" in weak_secret_reason(digest[:31])


# Keys from the issuer


def jwk(algorithm: str, kid: str | None, private_keys=None, **extra: object) -> str:
    key = (private_keys or PRIVATE_KEYS)[algorithm].public_key()
    members = json.loads(jwt.get_algorithm_by_name(algorithm).to_jwk(key))
    members.pop("key_ops", None)
    return json.dumps({**members, **({} if kid is None else {"kid": kid}), **extra})


class Issuer:
    """A JWKS endpoint on this machine that counts its requests and can break."""

    def __init__(self) -> None:
        self.body = b""
        self.status = 200
        self.redirect: str | None = None
        self.requests = 0
        self._server = self._serve(0)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/keys"

    def _serve(self, port: int) -> ThreadingHTTPServer:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.requests += 1
                if issuer.redirect and self.path == "/keys":
                    self.send_response(302)
                    self.send_header("Location", issuer.redirect)
                    self.end_headers()
                    return
                self.send_response(issuer.status)
                self.send_header("Content-Length", str(len(issuer.body)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(issuer.body)

            def log_message(self, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return server

    def publish(self, *keys: str) -> None:
        self.body = f'{{"keys": [{",".join(keys)}]}}'.encode()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def start(self) -> None:
        self._server = self._serve(self.port)


@pytest.fixture
def issuer(monkeypatch) -> Iterator[Issuer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = Issuer()
    yield running
    running.stop()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def by_issuer(issuer: Issuer, *algorithms: str) -> TokenVerifier:
    return TokenVerifier(algorithms or PRIVATE_KEYS, jwks_url=issuer.url, issuer=ISSUER, audience=AUDIENCE)


def signed(algorithm: str, kid: str | None, private_keys=PRIVATE_KEYS) -> str:
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(claims(), private_keys[algorithm], algorithm=algorithm, headers=headers)


def test_each_token_is_verified_by_the_key_it_names(issuer):
    issuer.publish(jwk("RS256", "r"), jwk("ES256", "e"), jwk("EdDSA", "d"))
    verifier = by_issuer(issuer)
    for algorithm, kid in (("RS256", "r"), ("ES256", "e"), ("EdDSA", "d")):
        assert verifier.verify(signed(algorithm, kid)).user_id == "alice"
        assert refusal_reason(verifier, signed(algorithm, kid, OTHER_KEYS)) == "signature"
    assert issuer.requests == 1


def test_a_key_serves_the_algorithm_of_its_type_only(issuer):
    issuer.publish(jwk("RS256", "r"), jwk("ES256", "e"))
    verifier = by_issuer(issuer)
    assert refusal_reason(verifier, signed("ES256", "r")) == "key"
    assert (
        refusal_reason(verifier, hs256(json.dumps(claims()).encode(), b'{"alg":"HS256","kid":"r"}', pem("RS256")))
        == "algorithm"
    )
    assert issuer.requests == 1


def test_a_token_without_key_id_gets_the_only_key_that_fits(issuer):
    issuer.publish(jwk("RS256", "r"), jwk("ES256", "e"))
    assert by_issuer(issuer).verify(signed("RS256", None)).user_id == "alice"
    issuer.publish(jwk("RS256", "r"), jwk("RS256", "r2", OTHER_KEYS))
    assert refusal_reason(by_issuer(issuer), signed("RS256", None)) == "key"


@pytest.mark.parametrize(
    "unfit",
    [
        jwk("RS256", "k", use="enc"),
        jwk("RS256", "k", alg="RS512"),
        jwk("RS256", "k", key_ops=["encrypt"]),
        '{"kty":"oct","kid":"k","k":"AAAA"}',
        '{"kty":"RSA","kid":"k","n":"!","e":"AQAB"}',
        json.dumps(
            {
                **json.loads(jwt.get_algorithm_by_name("RS256").to_jwk(PRIVATE_KEYS["RS256"])),
                "kid": "k",
                "key_ops": ["sign", "verify"],
            }
        ),
        '"k"',
    ],
)
def test_a_published_key_that_is_no_public_signature_key_is_passed_over(issuer, unfit):
    issuer.publish(unfit, jwk("ES256", "e"))
    verifier = by_issuer(issuer)
    assert verifier.verify(signed("ES256", "e")).user_id == "alice"
    assert refusal_reason(verifier, signed("RS256", "k")) == "key"


def test_a_published_key_that_is_too_short_is_passed_over(issuer):
    short = {"RS256": rsa.generate_private_key(public_exponent=65537, key_size=1024)}
    issuer.publish(jwk("RS256", "k", short), jwk("ES256", "e"))
    verifier = by_issuer(issuer)
    with pytest.warns(jwt.warnings.InsecureKeyLengthWarning):
        token = signed("RS256", "k", short)
    assert refusal_reason(verifier, token) == "key"
    assert verifier.verify(signed("ES256", "e")).user_id == "alice"


@pytest.mark.parametrize(
    "kid", ["../../../../etc/passwd", "file:///etc/passwd", "http://127.0.0.1:1/", "' OR 1=1 --", "", "x" * 2000]
)
def test_a_key_id_is_looked_up_and_nothing_else(issuer, kid):
    issuer.publish(jwk("RS256", "r"))
    assert refusal_reason(by_issuer(issuer), signed("RS256", kid)) == "key"
    assert issuer.requests == 1


def test_a_rotated_key_is_found_at_once_and_guesses_cost_one_request_in_thirty_seconds(issuer):
    issuer.publish(jwk("RS256", "old"))
    verifier = by_issuer(issuer)
    assert verifier.verify(signed("RS256", "old")).user_id == "alice"
    issuer.publish(jwk("RS256", "new", OTHER_KEYS))
    assert verifier.verify(signed("RS256", "new", OTHER_KEYS)).user_id == "alice"
    assert issuer.requests == 2
    for guess in range(50):
        assert refusal_reason(verifier, signed("ES256", f"guess{guess}")) == "key"
    assert issuer.requests == 2


def test_the_refetch_is_allowed_again_after_its_pause(issuer):
    clock = Clock()
    issuer.publish(jwk("RS256", "a"))
    cache = JwksCache(issuer.url, frozenset({"RS256"}), clock=clock)
    assert cache.key("a", "RS256") is not None
    assert cache.key("b", "RS256") is None
    assert issuer.requests == 2
    issuer.publish(jwk("RS256", "b"))
    clock.now += UNKNOWN_KID_REFETCH_SECONDS - 1
    assert cache.key("b", "RS256") is None
    clock.now += 2
    assert cache.key("b", "RS256") is not None
    assert issuer.requests == 3


def test_a_withdrawn_key_is_accepted_for_the_lifetime_of_the_set_only(issuer):
    clock = Clock()
    issuer.publish(jwk("RS256", "a"), jwk("RS256", "b", OTHER_KEYS))
    cache = JwksCache(issuer.url, frozenset({"RS256"}), clock=clock)
    assert cache.key("a", "RS256") is not None
    issuer.publish(jwk("RS256", "b", OTHER_KEYS))
    clock.now += LIFETIME_SECONDS - 1
    assert cache.key("a", "RS256") is not None
    clock.now += 1
    assert cache.key("a", "RS256") is None
    assert cache.key("b", "RS256") is not None


def test_while_the_issuer_is_down_cached_keys_work_and_others_are_unavailable(issuer):
    clock = Clock()
    issuer.publish(jwk("RS256", "a"))
    cache = JwksCache(issuer.url, frozenset({"RS256"}), clock=clock)
    assert cache.key("a", "RS256") is not None
    issuer.stop()
    clock.now += LIFETIME_SECONDS + 1
    assert cache.key("a", "RS256") is not None
    with pytest.raises(KeyUnavailable) as refusal:
        cache.key("b", "RS256")
    assert 1 <= refusal.value.retry_after_seconds <= FAILED_FETCH_PAUSE_SECONDS
    clock.now = 1000.0 + MAX_AGE_SECONDS - 1
    assert cache.key("a", "RS256") is not None
    clock.now += 1
    with pytest.raises(KeyUnavailable):
        cache.key("a", "RS256")
    issuer.start()
    clock.now += FAILED_FETCH_PAUSE_SECONDS
    assert cache.key("a", "RS256") is not None


def test_a_verifier_whose_issuer_was_never_reached_says_unavailable_not_invalid(issuer):
    issuer.publish(jwk("RS256", "a"))
    issuer.stop()
    verifier = by_issuer(issuer)
    with pytest.raises(KeyUnavailable):
        verifier.verify(signed("RS256", "a"))
    issuer.start()


def test_after_a_failure_nobody_asks_until_the_pause_is_over(issuer):
    clock = Clock()
    issuer.status = 500
    cache = JwksCache(issuer.url, frozenset({"RS256"}), clock=clock)
    for _ in range(10):
        with pytest.raises(KeyUnavailable):
            cache.key("a", "RS256")
    assert issuer.requests == 1
    clock.now += FAILED_FETCH_PAUSE_SECONDS
    issuer.status = 200
    issuer.publish(jwk("RS256", "a"))
    assert cache.key("a", "RS256") is not None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"keys": 1}',
        b'{"keys": []}',
        b'{"keys": [{"kty": "oct"}]}',
        b"\xff",
        b"[" * 5000,
        f'{{"keys": [{jwk("RS256", "b")}]}}'.encode() + b" " * 300_000,
    ],
)
def test_an_answer_that_is_no_key_set_is_a_failure_and_keeps_the_old_keys(issuer, body):
    clock = Clock()
    issuer.publish(jwk("RS256", "a"))
    cache = JwksCache(issuer.url, frozenset({"RS256"}), clock=clock)
    assert cache.key("a", "RS256") is not None
    issuer.body = body
    clock.now += LIFETIME_SECONDS
    assert cache.key("a", "RS256") is not None
    assert issuer.requests == 2
    with pytest.raises(KeyUnavailable):
        cache.key("b", "RS256")


def test_redirects_stay_within_the_origin(issuer, tmp_path):
    issuer.publish(jwk("RS256", "a"))
    issuer.redirect = f"http://127.0.0.1:{issuer.port}/elsewhere"
    assert by_issuer(issuer).verify(signed("RS256", "a")).user_id == "alice"
    stolen = tmp_path / "keys.json"
    stolen.write_bytes(issuer.body)
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.setblocking(False)
        port = elsewhere.getsockname()[1]
        elsewhere_too = (f"http://127.0.0.1:{port}/keys", f"http://localhost:{issuer.port}/other")
        for target in (stolen.as_uri(), f"ftp://127.0.0.1:{port}/", f"https://127.0.0.1:{port}/", *elsewhere_too):
            issuer.redirect = target
            with pytest.raises(KeyUnavailable):
                by_issuer(issuer).verify(signed("RS256", "a"))
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


def test_a_redirect_in_a_circle_is_a_failure(issuer):
    issuer.publish(jwk("RS256", "a"))
    issuer.redirect = issuer.url
    with pytest.raises(KeyUnavailable):
        by_issuer(issuer).verify(signed("RS256", "a"))


def test_many_threads_at_once_make_one_request(issuer):
    issuer.publish(jwk("RS256", "a"))
    verifier = by_issuer(issuer)
    token = signed("RS256", "a")
    start = threading.Barrier(16)
    users: list[str] = []

    def verify() -> None:
        start.wait()
        users.append(verifier.verify(token).user_id)

    threads = [threading.Thread(target=verify) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert users == ["alice"] * 16
    assert issuer.requests == 1
