"""GET /auth/check"""

from __future__ import annotations

from rest_framework.response import Response

from memory.api.permissions import HasToken
from memory.api.views.base import ApiView


class AuthCheckView(ApiView):
    """204: the middleware has verified the token; no database is touched."""

    operation = "auth"
    permission_classes = [HasToken]

    def get(self, request):
        return Response(status=204)
