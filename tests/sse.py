"""Server-sent events read back, by the rules of the format and not by those of our own writer."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One dispatched event; `comments` are those since the one before it."""

    id: str
    name: str
    data: dict
    comments: tuple[str, ...] = ()


def read_events(raw: bytes) -> list[Event]:
    """WHATWG HTML, 9.2.6: lines end at CR, LF or CRLF; an empty line dispatches; an unfinished event is dropped."""
    events, fields, comments, last_id = [], {}, [], ""
    *lines, _ = re.split(r"\r\n|\n|\r", raw.decode())
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not name:
                comments.append(value)
            elif name == "data":
                fields.setdefault("data", []).append(value)
            else:
                fields[name] = value
        elif "data" in fields:
            last_id = fields.get("id", last_id)
            data = json.loads("\n".join(fields["data"]))
            events.append(Event(last_id, fields.get("event", "message"), data, tuple(comments)))
            fields, comments = {}, []
        else:
            fields = {}
    return events


def answer_of(events: list[Event]) -> str:
    return "".join(event.data["delta"] for event in events if event.name == "token")
