"""Which requests are staff's, and what of Django stands before those alone.

A host name among DJANGO_ADMIN_HOSTS has staff's pages below STAFF_PREFIX; unless it is the API's too, as on one machine
in development, it has nothing else but the probes. Every other host name has none of them. A process without
DJANGO_ADMIN_HOSTS loads nothing of this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from axes.middleware import AxesMiddleware
from django.conf import settings
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.messages.middleware import MessageMiddleware
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.exceptions import MiddlewareNotUsed
from django.http import HttpRequest, HttpResponseNotFound, HttpResponseRedirect
from django.http.request import split_domain_port
from django.http.response import HttpResponseBase
from django.middleware.csrf import CsrfViewMiddleware
from whitenoise.middleware import WhiteNoiseMiddleware

from r1site.request_limits import PROBED_PATHS

# Scripts, styles, pictures and forms of this host only, and no script or style that stands in a page.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def address_of(request: HttpRequest) -> str:
    """Who tries to log in: the address that the proxy names where one is said to be in front, else the connection's."""
    proxied = request.META.get("HTTP_X_REAL_IP", "") if settings.SECURE_PROXY_SSL_HEADER else ""
    return proxied or request.META.get("REMOTE_ADDR", "")


class StaffSiteMiddleware:
    """Sets `request.is_for_staff`, and for staff's pages their addresses and headers."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]):
        if not settings.DJANGO_ADMIN_HOSTS:
            raise MiddlewareNotUsed
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        request.is_for_staff = False  # type: ignore[attr-defined]
        if request.path_info in PROBED_PATHS:
            return self.get_response(request)
        host, _ = split_domain_port(request.get_host())
        if host not in settings.DJANGO_ADMIN_HOSTS:
            return self.get_response(request)
        if not request.path_info.startswith(settings.STAFF_PREFIX):
            if host in settings.API_HOSTS:
                return self.get_response(request)
            if request.path_info in ("/", settings.STAFF_PREFIX.rstrip("/")):
                return HttpResponseRedirect(settings.STAFF_PREFIX)
            return HttpResponseNotFound("There is nothing here.\n", content_type="text/plain; charset=utf-8")
        request.is_for_staff = True  # type: ignore[attr-defined]
        request.urlconf = "r1site.staff_urls"
        response = self.get_response(request)
        response["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        response["X-Frame-Options"] = settings.X_FRAME_OPTIONS
        return response


class _ForStaff:
    """Before a middleware of Django's kind: lets every request pass that is not for staff."""

    get_response: Any

    def __init__(self, get_response):
        if not settings.DJANGO_ADMIN_HOSTS:
            raise MiddlewareNotUsed
        super().__init__(get_response)  # type: ignore[call-arg]

    def __call__(self, request):
        return super().__call__(request) if request.is_for_staff else self.get_response(request)  # type: ignore[misc]


class StaffStaticMiddleware(_ForStaff, WhiteNoiseMiddleware):
    """Styles and scripts, from the installed packages."""


class StaffSessionMiddleware(_ForStaff, SessionMiddleware):
    """`request.session`."""


class StaffCsrfMiddleware(_ForStaff, CsrfViewMiddleware):
    """Refuses a form of another site."""

    def process_view(self, request, callback, callback_args, callback_kwargs):
        if not request.is_for_staff:
            return None
        return super().process_view(request, callback, callback_args, callback_kwargs)


class StaffAuthenticationMiddleware(_ForStaff, AuthenticationMiddleware):
    """`request.user`."""


class StaffMessageMiddleware(_ForStaff, MessageMiddleware):
    """What an action has to say, on the page after it."""


class StaffAxesMiddleware(_ForStaff, AxesMiddleware):
    """Tells who has tried too many passwords to wait."""
