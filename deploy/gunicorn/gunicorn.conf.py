"""gunicorn for the memory service: threads for waiting, processes for cores.

Environment: PORT (8123), WEB_CONCURRENCY (workers, default half the cores), GUNICORN_THREADS (8),
OMP_NUM_THREADS (default cores / workers). Another address: `gunicorn -b HOST:PORT -c ...`.
"""

import os

if hasattr(os, "sched_getaffinity"):
    _cores = len(os.sched_getaffinity(0))
else:
    _cores = os.cpu_count() or 1

bind = f"127.0.0.1:{os.environ.get('PORT') or 8123}"
workers = int(os.environ.get("WEB_CONCURRENCY") or max(1, _cores // 2))
worker_class = "gthread"
threads = int(os.environ.get("GUNICORN_THREADS") or 8)

# CUDA and OpenMP do not survive a fork: each worker loads the application and its models itself.
preload_app = False
# Inherited by the workers, and read by torch when they import it. The master never does.
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _cores // workers)))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A worker that loads its models on a cold disk is silent for a while; a stuck one is replaced after this.
timeout = 60
graceful_timeout = 20
# Longer than clients pause between two requests of one conversation turn.
keepalive = 15
# The heartbeat file must not wait for a disk.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

# A bearer token with room to spare; anything larger is no client of ours.
limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 8190

# The service writes its own access log, without query strings and user ids.
accesslog = None
errorlog = "-"
# Nothing here uses gunicorn's control socket, which it would put in the home folder.
control_socket_disable = True


def post_worker_init(worker):
    """Load models before the worker's first request."""
    from r1site.startup import warm_worker

    warm_worker()


def child_exit(server, worker):
    """Drop a dead worker's live gauges from the shared metrics."""
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(worker.pid)
