"""What a canary run needs to reach: all of it looked at, and everything that is amiss said at once."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from memory.rollout.burst import USERS_MIN
from memory.rollout.calls import Unreachable, call
from memory.rollout.proxy import NoSplit, read_split

State = Literal["ready", "not given", "failed"]
# Without these there is no run; the others are asked for by `--if-ready` alone.
NEEDED = ("service", "users")


@dataclass(frozen=True)
class Reach:
    """Where things are; '' for what is not given. Addresses are without a path, `metrics` is that of a page."""

    endpoint: str = ""
    prometheus: str = ""
    alertmanager: str = ""
    proxy_config: str = ""
    tokens_file: str = ""
    metrics: str = ""
    metrics_token: str = ""


@dataclass(frozen=True)
class Item:
    """One line of the checklist; `says` holds no token."""

    name: str
    state: State
    says: str = ""

    def line(self) -> dict[str, str]:
        return asdict(self)


def checklist(reach: Reach) -> list[Item]:
    """Every item, looked at."""
    return [
        _item("service", reach.endpoint, _look_at_service, reach),
        _item("metrics", reach.prometheus or reach.metrics, _look_at_metrics, reach),
        _item("users", reach.tokens_file, _look_at_users, reach),
        _item("proxy", reach.proxy_config, _look_at_proxy, reach),
        _item("prometheus", reach.prometheus, _look_at_prometheus, reach),
        _item("alertmanager", reach.alertmanager, _look_at_alertmanager, reach),
    ]


def missing(items: list[Item], *, everything: bool) -> list[str]:
    """What keeps a run from starting, as sentences: what failed, and what it needs and was not given.

    `everything`: nothing may be left out.
    """
    return [
        f"{item.name}: {item.says or item.state}"
        for item in items
        if item.state == "failed" or (item.state == "not given" and (everything or item.name in NEEDED))
    ]


def read_tokens(path: Path) -> list[str]:
    """The tokens of a file, one a line; empty lines and lines after a # are none. Raises OSError, ValueError."""
    lines = (line.strip() for line in path.read_text("utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


class _Amiss(Exception):
    """Its message goes into the checklist."""


def _item(name: str, given: str, look: Callable[[Reach], str], reach: Reach) -> Item:
    if not given:
        return Item(name, "not given")
    try:
        return Item(name, "ready", look(reach))
    except (_Amiss, Unreachable, NoSplit) as exc:
        return Item(name, "failed", str(exc))


def _look_at_service(reach: Reach) -> str:
    status = call(f"{reach.endpoint}/health/ready").status
    if status != 200:
        raise _Amiss(f"is not ready ({status})")
    return ""


def _look_at_metrics(reach: Reach) -> str:
    if reach.prometheus:
        return "by Prometheus"
    answer = call(reach.metrics, token=reach.metrics_token)
    if answer.status != 200 or b"# TYPE" not in answer.body:
        raise _Amiss(
            f"no page of metrics ({answer.status}): from elsewhere than loopback it needs MEMORY_METRICS_TOKEN"
        )
    return "by the service's own page"


def _look_at_users(reach: Reach) -> str:
    try:
        tokens = read_tokens(Path(reach.tokens_file))
    except (OSError, ValueError) as exc:
        raise _Amiss(f"their file cannot be read ({type(exc).__name__})") from None
    users = {_subject(token) for token in tokens}
    if len(users) < USERS_MIN:
        raise _Amiss(f"{len(users)} different users, and {USERS_MIN} are needed")
    refused = [
        f"{number} ({status})"
        for number, token in enumerate(tokens, 1)
        if (status := call(f"{reach.endpoint}/api/v1/auth/check", token=token).status) != 204
    ]
    if refused:
        raise _Amiss(f"the service refuses these tokens: {', '.join(refused)}")
    return f"{len(users)} users"


def _subject(token: str) -> Any:
    """Whose a token says it is, unverified; the token itself where it says nothing readable."""
    try:
        payload = token.split(".")[1]
        return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"]
    except (IndexError, KeyError, TypeError, ValueError):
        return token


def _look_at_proxy(reach: Reach) -> str:
    read_split(Path(reach.proxy_config))
    return ""


def _look_at_prometheus(reach: Reach) -> str:
    status = call(f"{reach.prometheus.rstrip('/')}/-/ready").status
    if status != 200:
        raise _Amiss(f"is not ready ({status})")
    return ""


def _look_at_alertmanager(reach: Reach) -> str:
    status = call(f"{reach.alertmanager.rstrip('/')}/api/v2/status").status
    if status != 200:
        raise _Amiss(f"its API does not answer ({status})")
    return ""
