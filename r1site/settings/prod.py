"""A real deployment: every secret is required and strong, the database is a real server."""

from django.core.exceptions import ImproperlyConfigured

from memory.keys.master_keys import has_master_keys, master_keys, tenant_hmac_keys
from memory.keys.receipt_keys import receipt_keys
from memory.keys.secret_files import Secret, SettingError
from r1site.settings import databases, env
from r1site.settings.base import *
from r1site.settings.base import (
    API_HOSTS,
    DJANGO_ADMIN_HOSTS,
    MEMORY_ALLOW_PLAINTEXT,
    MEMORY_DB_PREPARES,
    MEMORY_JWT_JWKS_URL,
    MEMORY_JWT_PUBLIC_KEY,
    MEMORY_JWT_SECRET,
    MEMORY_KEY_PROVIDER,
    MEMORY_LLM_BASE_URL,
    MEMORY_METRICS_TOKEN,
    MEMORY_TRANSIT_URL,
    POOL,
    SECRET_KEY,
)
from r1site.settings.secret_rules import refuse_equal, refuse_weak
from r1site.settings.transport_rules import plaintext_findings


def _master_keys() -> dict[str, bytes]:
    several = bool(Secret("MEMORY_ENCRYPTION_KEYS").value())
    if Secret("MEMORY_ENCRYPTION_ACTIVE_KEY").value() and not several:
        raise SettingError("MEMORY_ENCRYPTION_ACTIVE_KEY is set without MEMORY_ENCRYPTION_KEYS, whose ids it names")
    return {
        f"MEMORY_ENCRYPTION_KEYS[{key_id}]" if several else "MEMORY_ENCRYPTION_KEY": key
        for key_id, key in (master_keys().keys.items() if MEMORY_KEY_PROVIDER == "local" or has_master_keys() else ())
    }


def _hmac_keys() -> dict[str, bytes]:
    return dict(zip(("MEMORY_TENANT_HMAC_KEY", "MEMORY_TENANT_HMAC_OTHER_KEY"), tenant_hmac_keys(), strict=False))


def _receipt_keys() -> dict[str, bytes]:
    return {f"MEMORY_RECEIPT_KEY ({key.key_id})": key.secret for key in receipt_keys()}


_keys: dict[str, bytes] = {}
for _read in (_master_keys, _hmac_keys, _receipt_keys):
    try:
        _keys |= _read()
    except SettingError as exc:
        env.refuse(str(exc), None)

if set(DJANGO_ADMIN_HOSTS) & set(API_HOSTS):
    env.refuse("DJANGO_ADMIN_HOSTS and DJANGO_ALLOWED_HOSTS share a name: staff's pages need one of their own", None)
if not (MEMORY_JWT_SECRET or MEMORY_JWT_PUBLIC_KEY or MEMORY_JWT_JWKS_URL):
    env.refuse("one of MEMORY_JWT_SECRET, MEMORY_JWT_PUBLIC_KEY, MEMORY_JWT_JWKS_URL is required", None)
_texts = {
    "DJANGO_SECRET_KEY": SECRET_KEY,
    "MEMORY_JWT_SECRET": MEMORY_JWT_SECRET,
    "MEMORY_METRICS_TOKEN": MEMORY_METRICS_TOKEN,
}
refuse_weak(_texts)
refuse_equal({**_texts, **_keys})

# After what else can be wrong: without DATABASE_URL nothing below it can be looked at.
DATABASES = databases.from_urls(pool=POOL, prepares=MEMORY_DB_PREPARES)
_plaintext = plaintext_findings(
    urls={
        "jwks": ("MEMORY_JWT_JWKS_URL", MEMORY_JWT_JWKS_URL),
        "llm": ("MEMORY_LLM_BASE_URL", MEMORY_LLM_BASE_URL),
        "transit": ("MEMORY_TRANSIT_URL", MEMORY_TRANSIT_URL),
    },
    databases={databases.setting_of(alias): DATABASES[alias] for alias in reversed(DATABASES)},
    allowed=MEMORY_ALLOW_PLAINTEXT,
)
if _plaintext:
    raise ImproperlyConfigured("; ".join(_plaintext))

SECURE_CONTENT_TYPE_NOSNIFF = True
_behind_tls_proxy = env.boolean("DJANGO_BEHIND_TLS_PROXY", True)
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if _behind_tls_proxy else None
# One year; Django sends it only with answers to requests that came over HTTPS.
SECURE_HSTS_SECONDS = 31_536_000 if _behind_tls_proxy else 0

# Of staff's pages; the API sets none.
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _behind_tls_proxy
