"""Alice, Bob and a stranger: the same three people in every test about who may see what."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass

from django.conf import settings
from django.test import Client

from memory.auth.mint import mint
from memory.security import hmac_user


@dataclass(frozen=True)
class Person:
    """One user with an id of their own in every test, so that tests share tables and never rows."""

    user_id: str

    @classmethod
    def new(cls, name: str) -> Person:
        return cls(f"{name}-{uuid.uuid4().hex}")

    @property
    def user_hash(self) -> str:
        return hmac_user(self.user_id)

    def token(self, *, scope: str | None = None, ttl_seconds: int = 300) -> str:
        return mint(
            self.user_id, secret=settings.MEMORY_JWT_SECRET, algorithm="HS256", issuer=settings.MEMORY_JWT_ISSUER,
            audience=settings.MEMORY_JWT_AUDIENCE, ttl_seconds=ttl_seconds, scope=scope,
        )  # fmt: skip

    def client(self, **kwargs) -> Client:
        return Client(headers={"authorization": f"Bearer {self.token(**kwargs)}"}, raise_request_exception=False)

    def post(self, path: str, body, **headers):
        raw = body if isinstance(body, bytes | str) else json.dumps(body)
        return self.client().post(f"/api/v1/{path}", raw, content_type="application/json", headers=headers)

    def get(self, path: str, **headers: str):
        return self.client().get(f"/api/v1/{path}", headers={n.replace("_", "-"): v for n, v in headers.items()})

    def delete(self, path: str):
        return self.client().delete(f"/api/v1/{path}")

    def index(self, doc_id: str, text: str, **fields):
        return self.post("memory/index", {"doc_id": doc_id, "text": text, **fields})

    def query(self, query: str, **fields):
        return self.post("memory/query", {"query": query, **fields})
