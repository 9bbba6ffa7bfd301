"""Addresses. Operations answer at the root, where probes expect them, and below the API's prefix."""

from django.conf import settings
from django.http import HttpResponseRedirect
from django.urls import include, path
from django.views.generic import RedirectView

from r1site import health, metrics, problems


@problems.allow_methods("GET", "HEAD")
def front_door(request):
    """Whoever opens the service's address in a browser: the memory page where there is one, else the API's own."""
    return HttpResponseRedirect("/console/" if settings.MEMORY_CONSOLE else "/api/v1/docs")


operations = [
    path("health/live", health.live),
    path("health/ready", health.ready),
    path("metrics", metrics.exposition),
    path("metrics/memory", metrics.memory_exposition),
]

urlpatterns = [
    path("api/v1/", include("memory.api.urls")),
    path("api/v1/", include(operations)),
    path("", include(operations)),
    path("", front_door),
    path("console", RedirectView.as_view(url="console/")),
    path("console/", include("memory.console.urls")),
]


handler400 = problems.bad_request
handler403 = problems.permission_denied
handler404 = problems.not_found
handler500 = problems.server_error
