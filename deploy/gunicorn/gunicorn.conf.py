"""gunicorn for the memory service: threads for waiting, processes for cores.

Environment: PORT (8123), WEB_CONCURRENCY (workers, default half the cores), GUNICORN_THREADS (40),
OMP_NUM_THREADS (default cores / workers), PROMETHEUS_MULTIPROC_DIR (default a fresh temporary
folder), GUNICORN_USER and GUNICORN_GROUP (whom the workers become when root starts it; production insists).
Another address: `gunicorn -b HOST:PORT -c ...`.
"""

import grp
import os
import pwd
import resource
import shutil
import sys
import tempfile

if hasattr(os, "sched_getaffinity"):
    _cores = len(os.sched_getaffinity(0))
else:
    _cores = os.cpu_count() or 1


def _at_least_one(name, default):
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or int(text) < 1:
        sys.exit(f"{name} must be a whole number of at least 1")
    return int(text)


bind = f"127.0.0.1:{_at_least_one('PORT', 8123)}"
workers = _at_least_one("WEB_CONCURRENCY", max(1, _cores // 2))
worker_class = "r1site.gunicorn_worker.Worker"
threads = _at_least_one("GUNICORN_THREADS", 40)
# Silent ones cost a descriptor each; at the limit the longest silent goes (r1site/gunicorn_worker.py).
worker_connections = 2000
# Those, those that are just being ended, and what a worker has open besides. Many systems give 1,024 unasked.
_descriptors = 4096
_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
if resource.RLIM_INFINITY != _soft < _descriptors:
    _allowed = _descriptors if _hard == resource.RLIM_INFINITY else min(_descriptors, _hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_allowed, _hard))

# As r1site/wsgi.py has it. Settings of a deployment's own are production, too.
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "r1site.settings.prod")
_is_production = os.environ["DJANGO_SETTINGS_MODULE"] not in ("r1site.settings.dev", "r1site.settings.test")


def _entry(find, name, setting):
    try:
        return find(name)
    except KeyError:
        sys.exit(f"{setting} names nobody on this machine")


_user_name, _group_name = os.environ.get("GUNICORN_USER", ""), os.environ.get("GUNICORN_GROUP", "")
if _group_name and not _user_name:
    sys.exit("GUNICORN_GROUP is set without GUNICORN_USER")
if _user_name:
    _account = _entry(pwd.getpwnam, _user_name, "GUNICORN_USER")
    _group_id = _entry(grp.getgrnam, _group_name, "GUNICORN_GROUP").gr_gid if _group_name else _account.pw_gid
    if 0 in (_account.pw_uid, _group_id):
        sys.exit("GUNICORN_USER and GUNICORN_GROUP must not be root")
    if os.geteuid() not in (0, _account.pw_uid):
        sys.exit("GUNICORN_USER is another user, whom only root can become: start as root, or as that one without it")
_drops_root = os.geteuid() == 0 and bool(_user_name)
if _drops_root:
    # The master stays root and reads no request; its workers are this user.
    user, group = _account.pw_uid, _group_id
    os.environ.update(HOME=_account.pw_dir, USER=_user_name, LOGNAME=_user_name)
elif os.geteuid() == 0 and _is_production:
    sys.exit(
        "refusing to serve as root: start as another user, or set GUNICORN_USER to one that may read the project "
        "and the files of its secrets"
    )

# CUDA and OpenMP do not survive a fork: each worker loads the application and its models itself.
preload_app = False
# Inherited by the workers, and read by whatever runs the models when it loads them. The master never does.
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _cores // workers)))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A worker that loads its models on a cold disk is silent for a while; a stuck one is replaced after this.
timeout = 60
graceful_timeout = 20
# Longer than clients pause between two requests of one conversation turn.
keepalive = 15
# The heartbeat file must not wait for a disk.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

# The longest address that the contract allows (a page of documents: a cursor and every filter, percent-encoded), and a
# bearer token, each with room to spare; anything larger is no client of ours.
limit_request_line = 8190
limit_request_fields = 64
limit_request_field_size = 8190
# The default lets a client on loopback set SCRIPT_NAME and PATH_INFO, and so move the path that is guarded.
forwarder_headers = ""

# No access log is written: its lines would hold document ids, which stand in paths.
accesslog = None
errorlog = "-"
# Its own messages would quote the requests that its parser refuses.
logger_class = "r1site.gunicorn_log.RequestFreeLogger"
# Nothing here uses gunicorn's control socket, which it would put in the home folder.
control_socket_disable = True

_metrics_folder = None


def on_starting(server):
    """Give the workers one folder for their metrics, so that /metrics covers all of them."""
    global _metrics_folder
    if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        _metrics_folder = tempfile.mkdtemp(prefix="r1-metrics-")
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = _metrics_folder
        if _drops_root:
            os.chown(_metrics_folder, user, group)


def when_ready(server):
    """Say once what no setting here can do."""
    if _is_production:
        server.log.info(
            "a client that sends its headers slowly holds a thread: only a proxy in front keeps such off "
            "(deploy/nginx/r1-memory.conf)"
        )


def on_exit(server):
    """Remove that folder; one that was named to us is left alone."""
    if _metrics_folder:
        shutil.rmtree(_metrics_folder, ignore_errors=True)


def post_fork(server, worker):
    """Leave root's other groups. gunicorn's own `initgroups` does so too, but then keeps root's first one."""
    if _drops_root:
        os.initgroups(_user_name, group)


def post_worker_init(worker):
    """Load models before the worker's first request."""
    from r1site.startup import warm_worker

    warm_worker()
    worker.log.serves()


def child_exit(server, worker):
    """Drop a dead worker's live gauges from the shared metrics."""
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(worker.pid)
