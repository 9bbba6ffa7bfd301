"""A product's backend that uses the generated Python client: the walk of typescript/walk.ts, step by step.

Runs under .venv-clients with the package `r1_memory` on its path. MEMORY_URL is the service, MEMORY_TOKENS the tokens
of a user and of another. What it saw goes to stdout, as one JSON object that the test compares.
"""

import json
import os
import sys
from urllib.parse import parse_qs, urlsplit

import httpx
from r1_memory import AuthenticatedClient
from r1_memory.api.documents import delete_document, get_document, get_stats, list_documents
from r1_memory.api.memory import index_memory, query_memory, stream_answer
from r1_memory.models import (
    DocumentPage,
    MemoryIndexAnswer,
    MemoryIndexRequest,
    MemoryQueryRequest,
    MemoryStreamRequest,
    NotFoundProblem,
    TooManyRequestsProblem,
    UnauthorizedProblem,
    UnprocessableContentProblem,
)
from r1_memory.types import UNSET

URL = os.environ["MEMORY_URL"]
mine, others = os.environ["MEMORY_TOKENS"].split()
seen: dict = {}


def client_of(token: str) -> AuthenticatedClient:
    return AuthenticatedClient(base_url=URL, token=token, raise_on_unexpected_status=True, timeout=httpx.Timeout(30))


memory = client_of(mine)

# Remembered, and once more by the same key: the first answer again.
heating = MemoryIndexRequest(
    doc_id="notes/heating", text="Grüße! The heat pump was serviced in March by Maria Lindqvist."
)
for name in ("indexed", "repeated"):
    indexed = index_memory.sync(client=memory, body=heating, idempotency_key="walk")
    assert isinstance(indexed, MemoryIndexAnswer)
    seen[name] = [indexed.doc_id, indexed.chunks]

# Asked: the best passage, cited.
asked = query_memory.sync(client=memory, body=MemoryQueryRequest(query="When was the heat pump serviced?"))
seen["found"] = [asked.results[0].text, asked.results[0].citation.doc_id]

# Answered while it is being written: server-sent events as text.
text = stream_answer.sync(client=memory, body=MemoryStreamRequest(message="When was the heat pump serviced?"))
events, answer = [], ""
for block in filter(None, text.split("\n\n")):
    fields = dict(line.split(": ", 1) for line in block.split("\n"))
    if not events or events[-1] != fields["event"]:
        events.append(fields["event"])
    if fields["event"] == "token":
        answer += json.loads(fields["data"])["delta"]
seen["streamed"] = [events, "serviced in March" in answer]

# Listed page by page, to the last.
for number in range(4):
    diary = MemoryIndexRequest(doc_id=f"diary/{number}", text=f"On day {number} the sea was calm.")
    index_memory.sync(client=memory, body=diary)
listed, cursor = [], UNSET
while True:
    page = list_documents.sync(client=memory, limit=2, cursor=cursor)
    assert isinstance(page, DocumentPage)
    listed += [document.doc_id for document in page.results]
    if page.next_ is None:
        break
    cursor = parse_qs(urlsplit(page.next_).query)["cursor"][0]
seen["listed"] = sorted(listed)

# Read back, deleted, and then missing.
seen["read"] = get_document.sync("notes/heating", client=memory).text
seen["deleted"] = delete_document.sync_detailed("notes/heating", client=memory).status_code.value
missing = get_document.sync("notes/heating", client=memory)
seen["missing"] = missing.code if isinstance(missing, NotFoundProblem) else repr(missing)

# Another user has nothing of it.
seen["other"] = len(list_documents.sync(client=client_of(others)).results)

# Errors are typed: a wrong token, a wrong body with its fields, too much of it.
stranger = get_stats.sync(client=client_of("rubbish"))
seen["stranger"] = stranger.code if isinstance(stranger, UnauthorizedProblem) else repr(stranger)
wrong = query_memory.sync(client=memory, body=MemoryQueryRequest(query="", top_k=1000))
assert isinstance(wrong, UnprocessableContentProblem)
seen["wrong"] = [wrong.code, sorted(each.field for each in wrong.errors)]
seen["too_many"] = "never"
for _ in range(50):
    refused = query_memory.sync_detailed(client=memory, body=MemoryQueryRequest(query="calm"))
    if isinstance(refused.parsed, TooManyRequestsProblem):
        seen["too_many"] = [refused.parsed.code, int(refused.headers["Retry-After"]) >= 1]
        break

sys.stdout.write(json.dumps(seen))
