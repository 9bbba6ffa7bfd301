"""The embedded server's settings, sized for the machine it starts on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

MIB = 1024 * 1024

SHARED_BUFFERS_FLOOR_BYTES = 128 * MIB
SHARED_BUFFERS_CAP_BYTES = 2048 * MIB
MAINTENANCE_FLOOR_BYTES = 64 * MIB
MAINTENANCE_CAP_BYTES = 1024 * MIB

_FIXED = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
    "max_connections": "100",
    "work_mem": "16MB",
    "max_parallel_workers_per_gather": "0",
    "random_page_cost": "1.1",
    "jit": "off",
    "wal_compression": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # The log must never hold what a user stored. ERROR lines quote bad values in their message and
    # DETAIL lines quote rows; both reach the client, who logs what is safe. LOG, FATAL and PANIC stay.
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_line_prefix": "%m [%p] ",
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_statement": "none",
    "log_duration": "off",
    "log_min_duration_statement": "-1",
    "log_min_duration_sample": "-1",
    "log_transaction_sample_rate": "0",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_autovacuum_min_duration": "-1",
    "log_checkpoints": "off",
    "log_temp_files": "-1",
    "log_lock_waits": "off",
}

_DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "max_wal_size": "4GB"}
# Tests connect thousands of times, and each side hashes the password so often.
_DISPOSABLE = {
    "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_wal_size": "1GB",
    "scram_iterations": "1",
}  # fmt: skip


def machine_memory_bytes() -> int:
    """RAM this process may count on: the machine's, or its control group's limit if that is less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(limit).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total


def server_settings(
    *, socket_folder: Path, cluster_name: str, durable: bool, memory_bytes: int | None = None
) -> dict[str, str]:
    """Setting name -> value, as they go into the configuration file.

    `durable=False` gives up crash safety, and what makes a stolen verifier dear to guess from, for speed and is for
    tests alone.
    """
    memory_bytes = memory_bytes or machine_memory_bytes()
    shared_bytes = _clamp(memory_bytes // 8, SHARED_BUFFERS_FLOOR_BYTES, SHARED_BUFFERS_CAP_BYTES)
    if not durable:
        shared_bytes = SHARED_BUFFERS_FLOOR_BYTES
    maintenance_bytes = _clamp(memory_bytes // 16, MAINTENANCE_FLOOR_BYTES, MAINTENANCE_CAP_BYTES)
    quoted_folder = str(socket_folder).replace('"', '""')
    settings = {
        **_FIXED,
        **(_DURABLE if durable else _DISPOSABLE),
        "cluster_name": cluster_name,
        "unix_socket_directories": f'"{quoted_folder}"',
        "shared_buffers": f"{shared_bytes // MIB}MB",
        "effective_cache_size": f"{max(memory_bytes // 2, shared_bytes) // MIB}MB",
        "maintenance_work_mem": f"{maintenance_bytes // MIB}MB",
    }
    if not _holds_parallel_build(maintenance_bytes):
        settings["max_parallel_maintenance_workers"] = "0"
    return settings


def render(settings: dict[str, str]) -> str:
    """The settings as a PostgreSQL configuration file."""
    lines = ["# Written at each start of the embedded server; edits are lost."]
    for name, value in settings.items():
        quoted = value.replace("'", "''")
        lines.append(f"{name} = '{quoted}'")
    return "\n".join(lines) + "\n"


def _holds_parallel_build(maintenance_bytes: int) -> bool:
    """Whether /dev/shm takes a parallel index build's graph; containers often give it 64 MiB."""
    try:
        return shutil.disk_usage("/dev/shm").total >= 2 * maintenance_bytes
    except OSError:
        return True


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))
