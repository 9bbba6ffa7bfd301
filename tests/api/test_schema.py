"""The OpenAPI document is what the code is: committed, complete, valid, and rendered from local files."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import jsonschema_rs
import pytest
import schemathesis
from django.conf import settings
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import URLPattern, get_resolver

from memory import limits as conf
from memory.api.schema import document
from memory.api.schema.generate import generate
from memory.api.views.docs import CONTENT_SECURITY_POLICY, FILES
from memory.problems import PROBLEMS

CONTRACT = json.loads(document.PATH.read_bytes())
COMPONENTS = CONTRACT["components"]
METHODS = {"get", "post", "put", "patch", "delete"}


def operations() -> dict[tuple[str, str], dict]:
    return {
        (method.upper(), path): operation
        for path, methods in CONTRACT["paths"].items()
        for method, operation in methods.items()
    }


def addresses(resolver=None, prefix: str = "/") -> dict[str, object]:
    """Every address of the URL conf with its view."""
    found = {}
    for entry in (resolver or get_resolver()).url_patterns:
        address = prefix + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", str(entry.pattern))
        found |= {address: entry.callback} if isinstance(entry, URLPattern) else addresses(entry, address)
    return found


def methods_of(view) -> set[str]:
    """What a view answers to, without HEAD, which goes where GET does."""
    cls = getattr(view, "cls", None)
    if cls is not None:
        return {method.upper() for method in METHODS if hasattr(cls, method)}
    return {"GET"}


def test_the_committed_document_is_what_the_code_says():
    assert document.PATH.read_bytes() == generate(), "run manage.py export_schema and commit the result"


def test_export_schema_checks_without_writing(capsys, monkeypatch, tmp_path):
    call_command("export_schema", "--check")
    assert json.loads(capsys.readouterr().out)["differs"] is False

    outdated = tmp_path / "openapi.json"
    outdated.write_text("{}")
    monkeypatch.setattr(document, "PATH", outdated)
    with pytest.raises(SystemExit) as stopped:
        call_command("export_schema", "--check")
    assert stopped.value.code == 1
    assert outdated.read_text() == "{}"
    call_command("export_schema")
    assert outdated.read_bytes() == generate()


def test_export_schema_refuses_what_it_does_not_know():
    with pytest.raises(CommandError):
        call_command("export_schema", "--nonsense")


def test_every_address_and_method_is_in_the_document_and_no_other():
    found = addresses()
    below = {path: view for path, view in found.items() if path.startswith("/api/v1/")}
    # At the root are only aliases of what is below the prefix, and pages for people.
    outside = {
        path: view
        for path, view in found.items()
        if path not in below and path != "/" and not path.startswith("/console")
    }
    assert set(outside.values()) <= set(below.values())
    served = {(method, path) for path, view in below.items() for method in methods_of(view)}
    assert len(served) > 15
    assert served == operations().keys()


def test_every_problem_is_in_the_document_with_its_status_and_headers():
    documented = {
        code: (status, response)
        for response in COMPONENTS["responses"].values()
        for component in [response["content"]["application/problem+json"]["schema"]["$ref"].rpartition("/")[2]]
        for narrowed in [COMPONENTS["schemas"][component]["allOf"][1]["properties"]]
        for status in narrowed["status"]["enum"]
        for code in narrowed["code"]["enum"]
    }
    assert {code: status for code, (status, _) in documented.items()} == {
        code: kind.status for code, kind in PROBLEMS.items()
    }
    assert set(COMPONENTS["schemas"]["Problem"]["properties"]["code"]["enum"]) == PROBLEMS.keys()
    for code, (_, response) in documented.items():
        assert ("Retry-After" in response["headers"]) == (PROBLEMS[code].retry_after_seconds is not None), code
        assert ("WWW-Authenticate" in response["headers"]) == (PROBLEMS[code].authenticate is not None), code
        assert "X-Request-ID" in response["headers"]


def test_every_operation_says_who_may_call_it_and_what_it_can_answer():
    for (method, path), operation in operations().items():
        statuses = set(operation["responses"])
        assert any(status.startswith("2") for status in statuses), path
        assert statuses >= {"400", "411", "413", "415", "500"}, path
        if operation["security"] == [{"bearer": []}]:
            assert statuses >= {"401", "406", "503"}, path
        if path.startswith("/api/v1/memory/"):
            assert statuses >= {"403", "429"}, path
            assert re.search("needs `memory:(read|write)`", operation["description"]), path
        if method == "POST":
            assert "422" in statuses, path
    named = [operation["operationId"] for operation in operations().values()]
    assert len(set(named)) == len(named)
    assert all(re.fullmatch("[a-z]+[A-Za-z]+", name) for name in named)


def test_every_limit_of_a_request_is_in_the_document():
    requests = {name: schema for name, schema in COMPONENTS["schemas"].items() if "Request" in name}
    assert {"MemoryIndexRequest", "MemoryQueryRequest", "MemorySummaryRequest", "MemoryEntityRequest"} <= set(requests)
    index, query = requests["MemoryIndexRequest"]["properties"], requests["MemoryQueryRequest"]["properties"]
    summary, entities = requests["MemorySummaryRequest"]["properties"], requests["MemoryEntityRequest"]["properties"]
    batch = requests["MemoryIndexBatchRequest"]["properties"]
    said = {
        "TEXT_MAX_BYTES": index["text"]["maxLength"],
        "DOC_ID_MAX_CHARS": index["doc_id"]["maxLength"],
        "SOURCE_MAX_CHARS": index["source"]["maxLength"],
        "THREAD_ID_MAX_CHARS": index["thread_id"]["maxLength"],
        "SPEAKER_MAX_CHARS": index["speaker"]["maxLength"],
        "SEQUENCE_MAX": index["sequence"]["maximum"],
        "METADATA_MAX_DEPTH": max(
            int(name.removeprefix("MetadataLevel"))
            for name in COMPONENTS["schemas"]
            if name.startswith("MetadataLevel")
        ),
        "METADATA_MAX_NAMES": int(re.search(r"([0-9,]+) names", json.dumps(COMPONENTS["schemas"]))[1].replace(",", "")),
        "CHUNKS_PER_CALL_MAX": batch["documents"]["maxItems"],
        "QUERY_MAX_CHARS": query["query"]["maxLength"],
        "TOP_K_MAX": query["top_k"]["maximum"],
        "TOP_K_DEFAULT": query["top_k"]["default"],
        "CANDIDATES_MAX": query["candidates"]["maximum"],
        "CANDIDATES_DEFAULT": query["candidates"]["default"],
        "RERANK_POOL_MAX": query["rerank_pool"]["maximum"],
        "SURROUNDINGS_MAX": query["surroundings"]["maximum"],
        "PASSAGES_MAX": int(re.search(r"at most ([0-9]+)", query["surroundings"]["description"])[1]),
        "FILTER_VALUES_MAX": query["source"]["anyOf"][1]["maxItems"],
        "SUMMARY_DOC_IDS_MAX": summary["doc_ids"]["maxItems"],
        "SUMMARY_SENTENCES_MAX": summary["max_sentences"]["maximum"],
        "SUMMARY_SENTENCES_DEFAULT": summary["max_sentences"]["default"],
        "LABELS_MAX": entities["labels"]["maxItems"],
        "LABEL_MAX_CHARS": entities["labels"]["items"]["maxLength"],
    }
    # Said in words, since JSON Schema cannot count bytes; and a limit of chunks, which are ours.
    said["METADATA_MAX_BYTES"] = 65_536 if "65,536 bytes" in COMPONENTS["schemas"]["Metadata"]["description"] else None
    limits = {name: value for name, value in vars(conf).items() if name.isupper()}
    del limits["CHUNK_MAX_CHARS"], limits["CHUNK_MAX_TOKENS"]
    assert said == limits


def test_no_schema_is_one_that_code_generators_leave_out():
    """Of `const` beside a type they drop the whole answer; a body that is not JSON they can only take as text."""
    assert '"const"' not in json.dumps(CONTRACT)
    for operation in operations().values():
        for response in operation["responses"].values():
            for media_type, media in response.get("content", {}).items():
                if "json" not in media_type.replace("x-ndjson", "") and media:
                    assert media["schema"]["type"] == "string", media_type


def test_every_request_refuses_unknown_members_and_takes_user_id():
    requests = [schema for name, schema in COMPONENTS["schemas"].items() if name.endswith("Request")]
    assert len(requests) >= 6
    for schema in requests:
        assert schema["additionalProperties"] is False
        assert "user_id" in schema["properties"]


def test_every_reference_leads_somewhere_and_no_component_is_left_over():
    text = json.dumps(CONTRACT)
    references = set(re.findall(r'"#/components/(\w+)/(\w+)"', text))
    components = {(kind, name) for kind, entries in COMPONENTS.items() for name in entries}
    assert references <= components
    # Said of every address at once, in the document's own description.
    by_the_server = ("UriTooLong", "ExpectationFailed", "RequestHeaderFieldsTooLarge", "NotImplemented")
    said_in_words = {("responses", name) for name in ("MethodNotAllowed", *by_the_server)} | {("headers", "Allow")}
    for _, name in said_in_words - {("headers", "Allow")}:
        for code in COMPONENTS["schemas"][f"{name}Problem"]["allOf"][1]["properties"]["code"]["enum"]:
            assert f"`{code}`" in CONTRACT["info"]["description"], code
    schemes = {("securitySchemes", name) for name in COMPONENTS["securitySchemes"]}
    assert components - references - schemes <= said_in_words


def test_the_examples_are_what_their_schemas_allow():
    tried = 0
    for operation in operations().values():
        for media in operation.get("requestBody", {}).get("content", {}).values():
            schema = {**media["schema"], "components": COMPONENTS}
            for example in media["examples"].values():
                jsonschema_rs.validate(schema, example["value"])
                tried += 1
    assert tried >= 6


def test_it_is_openapi_3_1():
    assert CONTRACT["openapi"] == "3.1.0"
    schemathesis.openapi.from_dict(CONTRACT).validate()
    for schema in COMPONENTS["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
    incomplete = copy.deepcopy(CONTRACT)
    del incomplete["components"]["responses"]["NotFound"]["description"]
    with pytest.raises(jsonschema_rs.ValidationError):
        schemathesis.openapi.from_dict(incomplete).validate()


def test_it_is_served_to_anyone():
    response = Client().get("/api/v1/schema")
    assert response.content == document.PATH.read_bytes()
    assert response["Content-Type"] == document.MEDIA_TYPE
    again = Client().get("/api/v1/schema", headers={"if-none-match": response["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert Client().get("/api/v1/schema", headers={"accept": "text/html"}).status_code == 200
    assert Client().delete("/api/v1/schema").status_code == 405


def test_the_page_loads_nothing_from_elsewhere():
    page = Client().get("/api/v1/docs")
    assert page["Content-Type"].startswith("text/html")
    assert page["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY and "http" not in CONTENT_SECURITY_POLICY
    named = set(re.findall(r'(?:src|href)="([^"]+)"', page.content.decode()))
    assert named == {*(f"docs/{name}" for name in FILES), "schema"}
    for name, (folder, content_type) in FILES.items():
        file = Client().get(f"/api/v1/docs/{name}")
        assert (file.status_code, file["Content-Type"]) == (200, content_type)
        assert file.content == (Path(folder) / name).read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        "..%2fdocument.py",
        "../schema/document.py",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "swagger-ui.css.map",
        "start.js%00",
        "",
    ],
)
def test_no_other_file_is_served(name):
    assert Client().get(f"/api/v1/docs/{name}").status_code in (401, 404)


def test_the_pages_files_are_public_and_no_other():
    public = {path.removeprefix("/api/v1/docs/") for path in settings.MEMORY_PUBLIC_PATHS if "/docs/" in path}
    documented = CONTRACT["paths"]["/api/v1/docs/{name}"]["get"]["parameters"][0]["schema"]["enum"]
    assert public == FILES.keys() == set(documented)


def test_every_parameter_that_is_a_string_has_a_bound():
    parameters = [
        parameter["schema"]
        for operations in CONTRACT["paths"].values()
        for operation in operations.values()
        for parameter in operation.get("parameters", ())
        if "schema" in parameter and parameter["schema"].get("type") == "string" and parameter["in"] != "header"
    ]
    assert len(parameters) > 3
    assert [schema for schema in parameters if not {"maxLength", "enum", "format"} & schema.keys()] == []
