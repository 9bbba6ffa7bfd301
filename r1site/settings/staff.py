"""What staff's pages need of Django: templates, sessions, passwords, the guard of the login. None of it is the API's.

A deployment chooses the host names alone (DJANGO_ADMIN_HOSTS, in base.py).
"""

from __future__ import annotations

from datetime import timedelta

# Each lets whatever is not for staff pass untouched (r1site/staff_site.py).
STAFF_MIDDLEWARE = (
    "r1site.staff_site.StaffSiteMiddleware",
    "r1site.staff_site.StaffStaticMiddleware",
    "r1site.staff_site.StaffSessionMiddleware",
    "r1site.staff_site.StaffCsrfMiddleware",
    "r1site.staff_site.StaffAuthenticationMiddleware",
    "r1site.staff_site.StaffMessageMiddleware",
    "r1site.staff_site.StaffAxesMiddleware",
)
STAFF_PREFIX = "/admin/"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
FORMAT_MODULE_PATH = "r1site.formats"
# Served by WhiteNoise from the packages themselves: there is nothing to collect.
STATIC_URL = f"{STAFF_PREFIX}static/"
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = False

# Half an hour from the login, and no longer than the browser is open.
SESSION_COOKIE_AGE = 1800
SESSION_EXPIRE_AT_BROWSER_CLOSE = True
SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = "r1_staff", "r1_staff_csrf"
SESSION_COOKIE_PATH = CSRF_COOKIE_PATH = STAFF_PREFIX
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Strict"
CSRF_COOKIE_HTTPONLY = True
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"
X_FRAME_OPTIONS = "DENY"

LOGIN_URL = "admin:login"
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]

# Five wrong passwords of one name from one address, and it waits a quarter of an hour.
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_CLIENT_IP_CALLABLE = "r1site.staff_site.address_of"
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_ON_SUCCESS = True
AXES_DISABLE_ACCESS_LOG = True
AXES_ENABLE_ADMIN = False
AXES_VERBOSE = False
# It looks for its middleware by name; ours is a subclass, for staff's requests alone.
SILENCED_SYSTEM_CHECKS = ["axes.W002"]
