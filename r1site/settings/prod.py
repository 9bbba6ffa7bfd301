"""A real deployment: every secret is required and strong, the database is a real server."""

from django.core.exceptions import ImproperlyConfigured

from memory.environment import SettingError
from memory.master_keys import master_keys, tenant_hmac_key
from memory.tokens import weak_secret_reason
from r1site.settings import databases, env
from r1site.settings.base import *
from r1site.settings.base import (
    MEMORY_JWT_JWKS_URL,
    MEMORY_JWT_PUBLIC_KEY,
    MEMORY_JWT_SECRET,
    POOL,
    SECRET_KEY,
)

DATABASES = databases.from_urls(pool=POOL)

try:
    master_keys()
    tenant_hmac_key()
except SettingError as exc:
    raise ImproperlyConfigured(str(exc)) from None

if not (MEMORY_JWT_SECRET or MEMORY_JWT_PUBLIC_KEY or MEMORY_JWT_JWKS_URL):
    raise ImproperlyConfigured("one of MEMORY_JWT_SECRET, MEMORY_JWT_PUBLIC_KEY, MEMORY_JWT_JWKS_URL is required")
for _name, _value in (("DJANGO_SECRET_KEY", SECRET_KEY), ("MEMORY_JWT_SECRET", MEMORY_JWT_SECRET)):
    if _value and (_reason := weak_secret_reason(_value.encode())):
        raise ImproperlyConfigured(f"{_name}: {_reason}")

SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_PROXY_SSL_HEADER = (
    ("HTTP_X_FORWARDED_PROTO", "https") if env.boolean("DJANGO_BEHIND_TLS_PROXY", True) else None
)
