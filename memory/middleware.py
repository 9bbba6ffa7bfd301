"""From the bearer token to a bound tenant and room in the worker, for the length of one request.

The verified token's user is the request's user; nothing else in the request is ever asked. While
the view runs the tenant is bound, and every `tenant_transaction()` it opens sets `app.user_hash` to
it. When the view returns the tenant is unbound, so a streamed body that reaches for tenant rows
fails instead of finding another request's.
"""

from __future__ import annotations

import time
from functools import lru_cache
from io import BytesIO

from django.conf import settings
from django.db import Error
from django.utils.module_loading import import_string

from memory import metrics
from memory.admission import deadline
from memory.admission.concurrency import Budget
from memory.admission.refusals import LATE, LATE_SECONDS, refused_too_often
from memory.auth.tokens import TokenVerifier, bearer_token
from memory.errors import MemoryServiceError
from memory.keys.secret_files import SettingError
from memory.rls import bind_tenant, bound_tenant, give_back_connection
from memory.rollout.variants import one_variant, variant_in_use
from memory.sealing.names import are_being_renamed, user_hash_anew, user_hash_of

PROTECTED_PREFIX = "/api/"
# Of the look for a user's name, while users are renamed.
DATABASE_FAILURES = (Error,)


@lru_cache(maxsize=1)
def token_verifier() -> TokenVerifier:
    """The process's verifier, from settings."""
    return TokenVerifier(
        algorithms=settings.MEMORY_JWT_ALGORITHMS,
        secret=settings.MEMORY_JWT_SECRET or None,
        public_key=settings.MEMORY_JWT_PUBLIC_KEY or None,
        jwks_url=settings.MEMORY_JWT_JWKS_URL or None,
        issuer=settings.MEMORY_JWT_ISSUER,
        audience=settings.MEMORY_JWT_AUDIENCE,
        key_id=settings.MEMORY_JWT_KEY_ID or None,
        max_seconds=settings.MEMORY_JWT_MAX_SECONDS,
    )


class TenantMiddleware:
    """Verify the token and bind its user; answer 401 or 503 itself when there is none to bind.

    Covers everything under /api/ but the paths in settings.MEMORY_PUBLIC_PATHS. Sets
    `request.verified_token`, and `request.variant`, the pipeline of the user. Errors become responses through
    settings.MEMORY_PROBLEM_RESPONSE, since an exception raised by a middleware would not reach the API's own error
    handler.
    """

    def __init__(self, get_response):
        self.get_response = get_response
        self.problem_response = import_string(settings.MEMORY_PROBLEM_RESPONSE)

    def __call__(self, request):
        request.verified_token = None
        # Not `request.path`: it starts with a SCRIPT_NAME, which some servers take from a header.
        path = request.path_info
        if not path.startswith(PROTECTED_PREFIX) or path in settings.MEMORY_PUBLIC_PATHS:
            return self.get_response(request)
        started = time.perf_counter()
        try:
            request.verified_token = token_verifier().verify(bearer_token(request.headers.get("Authorization")))
            user_hash = user_hash_of(request.verified_token.user_id)
        except (MemoryServiceError, SettingError, *DATABASE_FAILURES) as exc:
            metrics.auth_refused.labels(getattr(exc, "reason", None) or getattr(exc, "code", "setting")).inc()
            return self.problem_response(request, exc)
        finally:
            metrics.auth_ms.observe((time.perf_counter() - started) * 1000)
        with bind_tenant(user_hash), one_variant():
            response = self.get_response(request)
            request.variant = variant_in_use(user_hash)
        if response.status_code == 503 and are_being_renamed():
            return self._under_the_name_of_now(request, response, user_hash)
        return response

    def _under_the_name_of_now(self, request, response, user_hash: str):
        """Who was renamed under way is answered once more, under his new name; anybody else as he was."""
        try:
            again = user_hash_anew(request.verified_token.user_id)
        except (MemoryServiceError, *DATABASE_FAILURES):
            return response
        if again == user_hash:
            return response
        response.close()
        if (raw := getattr(request, "raw_body", None)) is not None:
            request._stream, request._read_started = BytesIO(raw), False
        with bind_tenant(again), one_variant():
            response = self.get_response(request)
            request.variant = variant_in_use(again)
        return response


class AdmissionMiddleware:
    """Let a request in if there is room for it, before its body is read; answer 429 or 503 itself if not.

    A view's class says what it takes: `budget` (memory.admission.concurrency; None for a view that waits for
    nothing), and `deadline_setting`, the name of the setting with the seconds that its requests may last in all. The
    slot comes back with the response, unless the view has handed it over to a body that goes on. Who is refused over
    and over is told so late. Stands after TenantMiddleware; a request without a verified token passes, for it reaches
    no memory.
    """

    def __init__(self, get_response):
        self.get_response = get_response
        self.problem_response = import_string(settings.MEMORY_PROBLEM_RESPONSE)

    def __call__(self, request):
        request.slot = None
        started_at = getattr(request, "started_at", None) or time.monotonic()
        try:
            with deadline.counting_from(started_at):
                response = self.get_response(request)
            is_users = getattr(request, "verified_token", None) is not None
            if response.status_code == 429 and is_users and refused_too_often(bound_tenant()):
                request.META[LATE] = LATE_SECONDS
            return response
        finally:
            # A streamed body must not hold it, and Django would close it only after that.
            give_back_connection()
            if request.slot is not None and not request.slot.outlasts_request:
                request.slot.release()

    def process_view(self, request, view, args, kwargs):
        """Called by Django once it knows the view; what it returns is the answer."""
        view_class = getattr(view, "cls", None)
        budget: Budget | None = getattr(view_class, "budget", None)
        if getattr(request, "verified_token", None) is None or view_class is None or budget is None:
            return None
        try:
            request.slot = budget.take(bound_tenant())
        except MemoryServiceError as exc:
            return self.problem_response(request, exc)
        deadline.allow(getattr(settings, view_class.deadline_setting))
        return None
