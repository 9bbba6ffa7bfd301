"""Which connections of a production service must be encrypted, and to whom not."""

from __future__ import annotations

import pytest

from r1site.settings import databases
from r1site.settings.transport_rules import plaintext_findings

VERIFIED = "postgresql://r1_app@db.example.org/r1?sslmode=verify-full"


@pytest.fixture(autouse=True)
def no_defaults_of_libpq(monkeypatch):
    for name in ("PGHOST", "PGHOSTADDR", "PGSSLMODE", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)


def addresses(jwks: str, llm: str, transit: str) -> dict[str, tuple[str, str]]:
    return {
        "jwks": ("MEMORY_JWT_JWKS_URL", jwks),
        "llm": ("MEMORY_LLM_BASE_URL", llm),
        "transit": ("MEMORY_TRANSIT_URL", transit),
    }


def findings(*, jwks="", llm="", transit="", allowed=(), **urls: str) -> list[str]:
    """What is found for these addresses and these connection strings by setting, its names only."""
    found = plaintext_findings(
        urls=addresses(jwks, llm, transit), allowed=allowed,
        databases={name: alias_of(url) for name, url in (urls or {"DATABASE_URL": VERIFIED}).items()},
    )  # fmt: skip
    return [finding.split()[0] for finding in found]


def alias_of(url: str) -> dict:
    params = databases._parse("DATABASE_URL", url)
    host = params.pop("host", "")
    return databases._alias(name="r1", host=host, port="", user="r1_app", password="", options=params)


@pytest.mark.parametrize(
    "url", ["", "https://issuer.example.org/keys", "HTTPS://issuer.example.org/", "http://localhost:8000/v1",
            "http://127.0.0.1/keys", "http://127.8.8.8/keys", "http://[::1]:8000/keys"],
)  # fmt: skip
def test_https_and_loopback_are_accepted(url):
    assert findings(jwks=url, llm=url, transit=url) == []


@pytest.mark.parametrize(
    "url", ["http://issuer.example.org/keys", "http://10.0.0.7/v1", "http://localhost.example.org/", "http://0.0.0.0/",
            "http://127.0.0.1.example.org/", "HTTP://issuer.example.org/", "http://localhost@issuer.example.org/"],
)  # fmt: skip
def test_http_to_another_machine_is_found_unless_allowed_by_name(url):
    everywhere = ["MEMORY_JWT_JWKS_URL", "MEMORY_LLM_BASE_URL", "MEMORY_TRANSIT_URL"]
    assert findings(jwks=url, llm=url, transit=url) == everywhere
    assert findings(transit=url, allowed=("transit",)) == []
    assert findings(jwks=url, llm=url, allowed=("jwks",)) == ["MEMORY_LLM_BASE_URL"]
    assert findings(jwks=url, llm=url, allowed=("llm", "database")) == ["MEMORY_JWT_JWKS_URL"]


@pytest.mark.parametrize(
    "url", [VERIFIED, "host=/run/postgresql dbname=r1", "host=@r1 dbname=r1", "dbname=r1", "host=localhost dbname=r1",
            "postgresql://r1_app@127.0.0.1:5432/r1", "postgresql://r1_app@[::1]/r1?sslmode=disable",
            "host=db.example.org hostaddr=127.0.0.1 dbname=r1", "host=/run/a,127.0.0.1 dbname=r1"],
)  # fmt: skip
def test_a_database_here_or_verified_is_accepted(url):
    assert findings(DATABASE_URL=url) == []


@pytest.mark.parametrize("mode", [*("disable", "allow", "prefer", "require", "verify-ca")])
def test_a_database_elsewhere_needs_a_verified_name(mode):
    assert findings(DATABASE_URL=VERIFIED.replace("verify-full", mode)) == ["DATABASE_URL"]
    assert findings(DATABASE_URL=VERIFIED.replace("verify-full", mode), allowed=("database",)) == []


@pytest.mark.parametrize(
    "url", ["postgresql://r1_app@db.example.org/r1", "host=127.0.0.1,db.example.org dbname=r1",
            "host=localhost hostaddr=10.0.0.7 dbname=r1", "service=r1 dbname=r1"],
)  # fmt: skip
def test_no_mode_and_one_host_elsewhere_are_found(url):
    assert findings(DATABASE_URL=url) == ["DATABASE_URL"]


def test_what_libpq_takes_from_the_environment_counts(monkeypatch):
    monkeypatch.setenv("PGHOST", "db.example.org")
    assert findings(DATABASE_URL="dbname=r1") == ["DATABASE_URL"]
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    assert findings(DATABASE_URL="dbname=r1") == []
    assert findings(DATABASE_URL="dbname=r1 sslmode=prefer") == ["DATABASE_URL"]


def test_everything_is_told_at_once_and_no_value():
    said = plaintext_findings(
        urls=addresses("http://one.example.org/", "http://two.example.org/", "http://three.example.org/"), allowed=(),
        databases={name: alias_of("host=db.example.org dbname=r1") for name in ("DATABASE_URL", "DATABASE_OWNER_URL")},
    )  # fmt: skip
    assert [finding.split()[0] for finding in said] == [
        "MEMORY_JWT_JWKS_URL", "MEMORY_LLM_BASE_URL", "MEMORY_TRANSIT_URL", "DATABASE_URL", "DATABASE_OWNER_URL",
    ]  # fmt: skip
    assert "example.org" not in str(said)
