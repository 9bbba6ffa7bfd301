"""System checks. `manage.py check` runs the first; `--database default` adds the isolation audit."""

from __future__ import annotations

from django.conf import settings
from django.core.checks import Error, Tags, register
from django.db import DatabaseError, connections

from memory.errors import UnsafeDatabase
from memory.isolation.audit import require_safe_database
from memory.keys.master_keys import tenant_hmac_key
from memory.keys.receipt_keys import receipt_keys
from memory.keys.secret_files import SettingError
from memory.sealing.providers import require_key_providers


@register(Tags.security)
def keys_are_usable(app_configs, **kwargs):
    """memory.E001: what wraps users' keys, the tenant HMAC key or the receipt key are missing or weak."""
    try:
        require_key_providers()
        tenant_hmac_key()
        receipt_keys()
    except SettingError as exc:
        return [Error(str(exc), id="memory.E001")]
    return []


@register(Tags.security)
def settings_fit_together(app_configs, **kwargs):
    """memory.E002: values that are each in range and together are not."""
    errors = []
    if settings.MEMORY_CHUNK_OVERLAP * 2 > settings.MEMORY_CHUNK_TOKENS:
        errors.append(Error("MEMORY_CHUNK_OVERLAP may be at most half of MEMORY_CHUNK_TOKENS", id="memory.E002"))
    if settings.DATABASES["default"].get("ATOMIC_REQUESTS"):
        detail = "ATOMIC_REQUESTS must stay off: it holds a connection through model calls"
        errors.append(Error(detail, id="memory.E002"))
    for alias, database in settings.DATABASES.items():
        if database["OPTIONS"].get("server_side_binding") is not True:
            errors.append(Error(f"DATABASES[{alias!r}] must bind on the server", id="memory.E002"))
    return errors


@register(Tags.database)
def database_keeps_tenants_apart(app_configs, databases=None, **kwargs):
    """memory.E003: role, table, policy or grant is not as the migrations make them."""
    if "default" not in (databases or ()):
        return []
    try:
        require_safe_database(connections["default"])
    except UnsafeDatabase as exc:
        return [Error(finding, id="memory.E003") for finding in exc.findings]
    except DatabaseError as exc:
        return [Error(f"the database cannot be verified ({type(exc).__name__})", id="memory.E003")]
    return []
