"""What a verified token may do: scopes as DRF permission classes.

The token itself is verified once, in the middleware, which leaves it as `request.verified_token`.
"""

from __future__ import annotations

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from memory.errors import InsufficientScope, MissingToken

READ_SCOPE = "memory:read"
WRITE_SCOPE = "memory:write"


class HasToken(BasePermission):
    """A verified token, whatever its scope; raises `MissingToken`."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if getattr(request, "verified_token", None) is None:
            raise MissingToken
        return True


class _RequireScope(BasePermission):
    scope: str

    def has_permission(self, request: Request, view: Any) -> bool:
        """True, or `MissingToken` / `InsufficientScope`, never False: a bare False would become DRF's own 403.

        A token without a `scope` claim may do everything; an empty claim allows nothing.
        """
        token = getattr(request, "verified_token", None)
        if token is None:
            raise MissingToken
        if token.scopes is not None and self.scope not in token.scopes:
            raise InsufficientScope
        return True


class _RequireRead(_RequireScope):
    scope = READ_SCOPE


class _RequireWrite(_RequireScope):
    scope = WRITE_SCOPE


class HasScope:
    """`permission_classes = [HasScope.read]` or `[HasScope.write]`; neither scope implies the other."""

    read = _RequireRead
    write = _RequireWrite
