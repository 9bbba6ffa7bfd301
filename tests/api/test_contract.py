"""Every operation of the OpenAPI document against the service itself, with allowed data and with data that is not.

In process, over WSGI, on real PostgreSQL; all of schemathesis's checks are on. The suite's part is bounded and the same
each time; `make fuzz` goes on for longer, anew each time.
"""

from __future__ import annotations

import copy
import json
import os

import pytest
import schemathesis
from django.core.handlers.wsgi import WSGIHandler
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS
from schemathesis.config import SchemathesisConfig

from memory.api.schema import document
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True)

FUZZ_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
EXAMPLES = FUZZ_EXAMPLES or 15
SETTINGS = settings(
    max_examples=EXAMPLES,
    derandomize=not FUZZ_EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
MAX_TEXT_CHARS = 500
MAX_DOCUMENTS = 5
FAR_OFF = "2150-01-01T00:00:00Z"
# What schemathesis takes for a refusal, and this service's own of a body that is too large to be read.
REFUSALS = ["400", "401", "403", "404", "405", "406", "409", "411", "413", "415", "422", "429"]


def without_unknown_members(contract: dict) -> dict:
    """The document with answers that hold nothing else: it lets clients ignore what a later version adds."""
    closed = copy.deepcopy(contract)
    for name, schema in closed["components"]["schemas"].items():
        if not name.startswith("Metadata"):
            _close(schema)
    return closed


def _close(schema) -> None:
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            schema.setdefault("additionalProperties", False)
        for member in schema.values():
            _close(member)
    elif isinstance(schema, list):
        for member in schema:
            _close(member)


def without_metadata(contract: dict) -> dict:
    """The document as if documents had no metadata: of its eight levels alone the coverage phase makes 3,000 cases."""
    lean = copy.deepcopy(contract)
    schemas = lean["components"]["schemas"]
    for name in ("MemoryIndexRequest", "MemoryIndexDocument"):
        del schemas[name]["properties"]["metadata"]
    for name in [name for name in schemas if name.startswith("MetadataLevel")]:
        del schemas[name]
    schemas["Metadata"] = {"type": "object"}
    return lean


def with_quick_patterns(contract: dict) -> dict:
    """The document with patterns of the same meaning that schemathesis cannot merge with `maxLength`.

    It would write `{1,8192}` into them, and each of the hundreds of times that it compiles one takes 60 ms.
    """
    return json.loads(json.dumps(contract).replace(r"^[^\\u0000]*$", r"^[^\\u0000]*[^\\u0000]*$"))


def with_the_schema_of_an_event(contract: dict) -> dict:
    """The document with what its stream's `contentSchema` is in place of the string that it is about.

    schemathesis parses a stream and holds each event against the schema; generated clients take it all as text.
    """
    opened = copy.deepcopy(contract)
    events = opened["paths"]["/api/v1/stream"]["post"]["responses"]["200"]["content"]["text/event-stream"]
    events["schema"] = events["schema"]["contentSchema"]
    del events["example"]
    return opened


def contract(document: dict, *, coverage: bool, others: bool):
    """The service under `document`; the coverage phase walks each limit, the others try examples and random data."""
    loaded = schemathesis.openapi.from_dict(
        with_quick_patterns(with_the_schema_of_an_event(without_unknown_members(document))),
        config=SchemathesisConfig.from_dict(
            {
                "generation": {
                    "max-examples": EXAMPLES,
                    "deterministic": not FUZZ_EXAMPLES,
                    # The API ignores parameters that it does not know, a `user_id` above all: they are no wrong data.
                    "allow-extra-parameters": False,
                },
                "checks": {"negative_data_rejection": {"expected-statuses": REFUSALS}},
                "phases": {
                    "coverage": {"enabled": coverage},
                    "examples": {"enabled": others},
                    "fuzzing": {"enabled": others},
                },
            }
        ),
    )
    loaded.app = WSGIHandler()
    return loaded


DOCUMENT = json.loads(document.PATH.read_bytes())
CONTRACT = contract(DOCUMENT, coverage=bool(FUZZ_EXAMPLES), others=True)
LIMITS = contract(without_metadata(DOCUMENT), coverage=True, others=False)


@pytest.fixture
def user(transactional_db) -> Person:
    return Person.new("fuzz")


def make_meaningful(case, person: Person) -> None:
    """Give allowed data what no schema can: the user's own id, ids of their own for several documents, real cursors.

    Of wrong data, whole numbers over 64 bits are written as such: with an exponent the service takes them, and JSON
    Schema sees no difference.

    And texts of a length that can be embedded here: a million characters take minutes, and are more than 200 chunks.
    And no end before the beginning: that `expires_at` is later than `created_at` the document can only say in words.
    """
    if not case.meta.generation.mode.is_positive:
        case.body = without_exponents(case.body)
        return
    (case.query or {}).pop("cursor", None)
    if isinstance(case.body, dict):
        if "confirm" in case.body:
            case.body["confirm"] = person.user_id
        documents = case.body.get("documents")
        if documents:
            by_id = {entry["doc_id"]: entry for entry in documents}
            case.body["documents"] = list(by_id.values())[:MAX_DOCUMENTS]
        for holder in [case.body, *(case.body.get("documents") or [])]:
            if holder.get("expires_at"):
                holder["expires_at"] = FAR_OFF
                holder.pop("created_at", None)
            for name in {"text", "message", "query"} & holder.keys():
                if isinstance(holder[name], str) and len(holder[name]) > MAX_TEXT_CHARS:
                    holder[name] = holder[name][-MAX_TEXT_CHARS:]


def without_exponents(value):
    """`value` with its whole numbers over 64 bits as integers."""
    if isinstance(value, float) and value.is_integer() and abs(value) >= 2**63:
        return int(value)
    if isinstance(value, list):
        return [without_exponents(member) for member in value]
    if isinstance(value, dict):
        return {name: without_exponents(member) for name, member in value.items()}
    return value


def authorized(person: Person) -> dict[str, str]:
    # What reads the answers here does not always take them out of gzip, which has tests of its own.
    return {"Authorization": f"Bearer {person.token(ttl_seconds=3600)}", "Accept-Encoding": "identity"}


@CONTRACT.parametrize()
@SETTINGS
def test_every_operation_keeps_the_contract(case, user):
    make_meaningful(case, user)
    case.call_and_validate(headers=authorized(user))


@LIMITS.parametrize()
@SETTINGS
def test_every_operation_keeps_to_its_limits(case, user):
    make_meaningful(case, user)
    case.call_and_validate(headers=authorized(user))


def test_what_one_call_makes_the_next_one_finds_until_it_is_forgotten(transactional_db):
    class Walk(CONTRACT.as_state_machine()):
        def setup(self):
            # Each walk from nothing: with another's documents there, the same walk would be answered otherwise.
            self.person = Person.new("walk")

        def get_call_kwargs(self, case):
            return {"headers": authorized(self.person)}

        def before_call(self, case):
            make_meaningful(case, self.person)

        def validate_response(self, response, case, additional_checks=None, **kwargs):
            # schemathesis's own does not say that the token was given to it, and takes it for an invented one.
            case.validate_response(response, headers=kwargs["headers"], transport_kwargs=kwargs, recorder=self.recorder)

    Walk.run(settings=settings(SETTINGS, stateful_step_count=6))


def test_no_check_is_off():
    assert len(CHECKS.get_all_names()) >= 14
    for tested in (CONTRACT, LIMITS):
        checks = tested.config.checks_config_for()
        for name in CHECKS.get_all_names():
            assert checks.get_by_name(name=name).enabled, name
