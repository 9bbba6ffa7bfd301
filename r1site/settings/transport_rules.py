"""What may leave this machine only encrypted and to a server that has proved its name."""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit

CHOICES = ("jwks", "llm", "transit", "database")


def plaintext_findings(
    *, urls: dict[str, tuple[str, str]], databases: dict[str, dict], allowed: tuple[str, ...]
) -> list[str]:
    """A sentence for each connection that somebody on its way could read or answer; [] where there is none.

    `urls`: setting and value by choice. `databases`: each setting, DATABASE_URL and its like, with the Django alias
    made from it. `allowed`: those of CHOICES that MEMORY_ALLOW_PLAINTEXT names. Loopback and Unix sockets need no
    encryption. No value is quoted.
    """
    findings = []
    for choice, (setting, url) in urls.items():
        if choice not in allowed and _is_plaintext(url):
            findings.append(f"{setting} must be https, or on loopback (MEMORY_ALLOW_PLAINTEXT={choice} allows it)")
    if "database" not in allowed:
        findings += [
            f"{setting} must have sslmode=verify-full, or a Unix socket or loopback as its host "
            "(MEMORY_ALLOW_PLAINTEXT=database allows it)"
            for setting, alias in databases.items()
            if not _is_verified(alias)
        ]
    return findings


def _is_plaintext(url: str) -> bool:
    parts = urlsplit(url)
    return bool(url) and parts.scheme.lower() != "https" and not is_loopback(parts.hostname or "")


def _is_verified(alias: dict) -> bool:
    """As libpq would connect: what the URL leaves out it takes from PG* variables, and what these do from a service."""
    options = alias["OPTIONS"]
    sslmode = options.get("sslmode") or os.environ.get("PGSSLMODE", "")
    addresses = options.get("hostaddr") or os.environ.get("PGHOSTADDR", "")
    hosts = addresses or alias["HOST"] or os.environ.get("PGHOST", "")
    if not hosts and (options.get("service") or os.environ.get("PGSERVICE")):
        return sslmode == "verify-full"
    return sslmode == "verify-full" or all(_stays_here(host) for host in hosts.split(","))


def _stays_here(host: str) -> bool:
    # Without a host libpq takes its own Unix socket; a name with a slash or an at sign is one.
    return not host or host.startswith(("/", "@")) or is_loopback(host)


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address without port, is this machine and no name service is asked."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
