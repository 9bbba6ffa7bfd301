"""What the document says of the API as a whole."""

from __future__ import annotations

from memory.api.permissions import READ_SCOPE, WRITE_SCOPE

DESCRIPTION = """\
A memory service for chat and agent products. Your backend sends a user's texts; the service chunks, embeds, seals and
stores them; later it answers a question with the best passages, each cited to the character. What a user stores is
sealed under a key of that user's own, and no other user can reach it.

**Who is asking.** Every request but health and this document carries `Authorization: Bearer <JWT>`. The user is the
token's `sub` and nothing else.

**Requests** are JSON in UTF-8 (`application/json`), at most 1,000,000 bytes, with a `Content-Length` and without a
`Content-Encoding`. Members that a request does not have are refused (422), but for `user_id`, which is ignored.
A number is a number and a string a string: nothing is converted, trimmed or normalised. Parameters that an address does
not have are ignored.

**Answers** are JSON in UTF-8; times are RFC 3339 in UTC. Ignore members that you do not know: later versions may add
some. Every answer has an `X-Request-ID`.

**Errors** are problem documents (RFC 9457) as `application/problem+json`, with a stable `code`. Any other method on an
address is 405 `method_not_allowed` with `Allow`; `HEAD` goes where `GET` does. 429 and 503 say in `Retry-After` how
many seconds to wait. An object of another user is answered like one that does not exist. Requests that the server
cannot take are refused before their address is looked at: 400 `bad_request`, 414 `uri_too_long` (a request line over
8,190 bytes), 417 `expectation_failed`, 431 `headers_too_large` (more than 64, or one over 8,190 bytes) and 501
`unsupported_transfer_coding`; the connection then ends.
"""

SECURITY_SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": (
            "A signed JWT with `iss`, `aud`, `exp`, `iat` and `sub`, the user. Where it has a `scope` claim (names "
            f"separated by spaces), reading needs `{READ_SCOPE}` and writing `{WRITE_SCOPE}`; neither implies the "
            "other. Without the claim it may do both."
        ),
    },
    "metricsToken": {
        "type": "http",
        "scheme": "bearer",
        "description": "The deployment's own token for scrapers (`MEMORY_METRICS_TOKEN`), no JWT.",
    },
}
