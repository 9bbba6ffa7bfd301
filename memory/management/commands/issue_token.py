"""manage.py issue_token --user U [--scope ..] [--ttl 1h]"""

import re

from django.conf import settings

from memory.auth.mint import mint
from memory.errors import InvalidUserId
from memory.maintenance.command import ServiceCommand, usage

_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
TTL_SECONDS = 3600
TTL_MAX_SECONDS = 365 * 86_400


class Command(ServiceCommand):
    help = "Mint a bearer token where a symmetric secret is configured. Prints the token and nothing else."

    is_summarized = False

    def add_arguments(self, parser):
        parser.add_argument("--user", required=True, help="the user id, which becomes the token's sub")
        parser.add_argument("--scope", action="append", help="memory:read or memory:write, repeatable; default all")
        parser.add_argument("--ttl", help="life of the token: 30m, 7d; default 1h, or MEMORY_JWT_MAX_SECONDS if less")

    def handle(self, *, user, scope, ttl, **options):
        if not settings.MEMORY_JWT_SECRET:
            raise usage("tokens are signed elsewhere: no MEMORY_JWT_SECRET is configured")
        most_seconds = settings.MEMORY_JWT_MAX_SECONDS or TTL_MAX_SECONDS
        ttl_seconds = _seconds(ttl) if ttl else min(TTL_SECONDS, most_seconds)
        if ttl_seconds > most_seconds:
            raise usage(f"--ttl is over MEMORY_JWT_MAX_SECONDS ({most_seconds})")
        try:
            token = mint(
                user,
                secret=settings.MEMORY_JWT_SECRET,
                algorithm="HS256",
                issuer=settings.MEMORY_JWT_ISSUER,
                audience=settings.MEMORY_JWT_AUDIENCE,
                ttl_seconds=ttl_seconds,
                scope=" ".join(scope) if scope else None,
                key_id=settings.MEMORY_JWT_KEY_ID or None,
            )
        except InvalidUserId as exc:
            raise usage(exc.detail) from None
        self.stdout.write(token)


def _seconds(ttl: str) -> int:
    match = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", ttl)
    seconds = int(match[1]) * _UNIT_SECONDS[match[2]] if match else 0
    if not 0 < seconds <= TTL_MAX_SECONDS:
        raise usage("--ttl is a number and a unit, such as 30m, 1h or 7d, up to 365d")
    return seconds
