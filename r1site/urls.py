"""Addresses. Operations answer at the root, where probes expect them, and below the API's prefix."""

from django.urls import include, path
from django.views.generic import RedirectView

from r1site import health, metrics, problems

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
    path("console", RedirectView.as_view(url="console/")),
    path("console/", include("memory.console.urls")),
]

handler400 = problems.bad_request
handler403 = problems.permission_denied
handler404 = problems.not_found
handler500 = problems.server_error
