"""The WSGI application. Importing it verifies that it is safe to serve, whatever the server."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "r1site.settings.prod")

from django.core.wsgi import get_wsgi_application

application = get_wsgi_application()

from r1site.startup import refuse_unsafe_start  # noqa: E402

refuse_unsafe_start()
