"""Every error, as RFC 9457 problem documents: one response component a status, with its codes in memory/problems.py."""

from __future__ import annotations

from memory.api import patterns
from memory.api.shapes import Schema, array, integer, obj, ref, string
from memory.problems import PROBLEMS, codes_of

CONTENT_TYPE = "application/problem+json"

# status: (component, description).
RESPONSES: dict[int, tuple[str, str]] = {
    400: (
        "BadRequest",
        "The request cannot be understood: not JSON, a number not finite, a repeated name, nesting over 20 levels.",
    ),
    401: ("Unauthorized", "No token, or one that is not valid."),
    403: ("Forbidden", "The token's scope does not allow this."),
    404: ("NotFound", "There is no such object; another user's is answered the same."),
    405: ("MethodNotAllowed", "This address does not have that method; `Allow` names those it has."),
    406: (
        "NotAcceptable",
        "The answer cannot be given in the form that `Accept` asks for; `detail` names the media types there are.",
    ),
    408: ("RequestTimeout", "The body did not arrive in time; it was not read to its end."),
    409: ("Conflict", "The `Idempotency-Key` was used with another body."),
    411: ("LengthRequired", "A body without a `Content-Length`."),
    413: ("PayloadTooLarge", "The body is over 1,000,000 bytes; it was not read."),
    414: ("UriTooLong", "The request line is over 8,190 bytes."),
    415: ("UnsupportedMediaType", "The body is not `application/json` in UTF-8, or has a `Content-Encoding`."),
    417: ("ExpectationFailed", "`Expect` asks for more than `100-continue`."),
    422: (
        "UnprocessableContent",
        "What was sent is not allowed; `errors` names the fields. `too_many_chunks`: split the text. "
        "`quota_exceeded`: the user's memory is full; delete or shorten documents.",
    ),
    429: (
        "TooManyRequests",
        "The user's rate is used up, or as many requests of the user are under way as one user may have.",
    ),
    431: ("RequestHeaderFieldsTooLarge", "More than 64 headers, or one of over 8,190 bytes."),
    500: (
        "InternalServerError",
        "Something went wrong inside; `decryption_failed` says that sealed data did not open.",
    ),
    501: ("NotImplemented", "A `Transfer-Encoding` that is not known."),
    503: ("ServiceUnavailable", "Not now; try again after `Retry-After`."),
}

PROBLEM: Schema = obj(
    "An error (RFC 9457). `code` is stable and meant for programs, the sentences are for people. Never content.",
    {
        "type": string("`urn:r1:problem:` and the code.", pattern="^urn:r1:problem:[a-z_]+$"),
        "title": string("The code as words."),
        "status": integer("The HTTP status.", minimum=400, maximum=599),
        "detail": string("What is wrong, in one sentence."),
        "code": string("What went wrong.", enum=sorted(PROBLEMS)),
        "request_id": string("Finds the request in the service's logs.", pattern=patterns.REQUEST_ID),
        "errors": array(ref("FieldError"), "Which fields are wrong, where fields are.", maxItems=50),
    },
    optional=("errors",),
)
FIELD_ERROR: Schema = obj(
    "One field that was refused.",
    {
        "field": string("Its path, such as `documents[3].metadata`; `body` for the whole.", maxLength=128),
        "code": string("What is wrong with it."),
        "detail": string("The same, in one sentence."),
    },
)
HEADERS: dict[str, Schema] = {
    "RequestId": {
        "description": "The request's own `X-Request-ID` where it was 1-64 of `A-Z a-z 0-9 . _ -`, else one made here.",
        "required": True,
        "schema": {"type": "string", "pattern": patterns.REQUEST_ID},
    },
    "RetryAfter": {
        "description": "Seconds to wait before trying again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "Authenticate": {
        "description": (
            "How to authenticate (RFC 6750). `error_description` says so where the token has expired, or is valid for "
            "longer than is allowed."
        ),
        "required": True,
        "schema": {"type": "string", "pattern": "^Bearer"},
    },
    "Allow": {
        "description": "The methods of this address.",
        "required": True,
        "schema": {"type": "string"},
    },
}


def header(name: str) -> Schema:
    return {"$ref": f"#/components/headers/{name}"}


def problem_schemas() -> dict[str, Schema]:
    """The schema components: `Problem`, and what it is with each status, by name so that generated clients have one."""
    schemas = {"Problem": PROBLEM, "FieldError": FIELD_ERROR}
    for status, (name, _) in RESPONSES.items():
        # Not `const`, which code generators cannot merge with the type that `Problem` gives.
        narrowed: Schema = {"properties": {"status": {"enum": [status]}, "code": {"enum": codes_of(status)}}}
        schemas[f"{name}Problem"] = {"allOf": [ref("Problem"), narrowed]}
    return schemas


def problem_responses() -> dict[str, Schema]:
    """The response components."""
    responses = {}
    for status, (name, description) in RESPONSES.items():
        kinds = [PROBLEMS[code] for code in codes_of(status)]
        headers = {"X-Request-ID": header("RequestId")}
        if all(kind.authenticate for kind in kinds):
            headers["WWW-Authenticate"] = header("Authenticate")
        if all(kind.retry_after_seconds for kind in kinds):
            headers["Retry-After"] = header("RetryAfter")
        if status == 405:
            headers["Allow"] = header("Allow")
        responses[name] = {
            "description": description,
            "headers": headers,
            "content": {CONTENT_TYPE: {"schema": ref(f"{name}Problem")}},
        }
    return responses


def problem(status: int) -> Schema:
    return {"$ref": f"#/components/responses/{RESPONSES[status][0]}"}
