"""`manage.py explain_ann`: the plan of one user's search, and proof that it visits nobody else's rows."""

from __future__ import annotations

import json
import re

import pytest
from django.db import connections

from memory.embedding.spaces import default_space
from memory.embedding.vectors import half_vectors
from memory.management.commands.explain_ann import Command
from memory.retrieval.filters import Filters
from memory.retrieval.nearest import vector_leg
from memory.retrieval.plan import CHUNKS, SEARCHED_TABLES, Plan, explain_candidates, foreign_row_findings
from memory.rls import tenant_transaction
from tests.db.memories import remember, unit_vector
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "backup", "maint"])

OWN, OTHERS = 3, 8
OWNED = {table: OWN for table in SEARCHED_TABLES}
EXPLAIN = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "


def explain_ann(capsys, *arguments: str) -> tuple[int, dict | None, str]:
    """(exit status, the JSON on stdout, what stands on stderr) of the command line."""
    capsys.readouterr()
    status = 0
    try:
        Command().run_from_argv(["manage.py", "explain_ann", *arguments])
    except SystemExit as exc:
        status = exc.code
    printed = capsys.readouterr()
    return status, json.loads(printed.out) if printed.out else None, printed.err


@pytest.fixture(scope="module")
def neighbours(django_db_setup, django_db_blocker) -> tuple[Person, Person]:
    """Two users whose rows lie in one partition: one with few, one with more."""
    with django_db_blocker.unblock():
        people = [Person.new("neighbour") for _ in range(65)]
        with connections["backup"].cursor() as cursor:
            cursor.execute(
                "SELECT h, r FROM unnest(%s::text[]) h, generate_series(0, 63) r"
                " WHERE satisfies_hash_partition('memory_chunks'::regclass, 64, r, h)",
                [[person.user_hash for person in people]],
            )
            partition_of = dict(cursor.fetchall())
        connections["backup"].close()
        assert len(partition_of) == len(people)
        first_in: dict[int, Person] = {}
        for person in people:  # 65 people in 64 partitions
            one = first_in.setdefault(partition_of[person.user_hash], person)
            if one is not person:
                remember(one, *(f"own-{number}" for number in range(OWN)))
                remember(person, *(f"other-{number}" for number in range(OTHERS)))
                return one, person
    raise AssertionError("no two of 65 people share one of 64 partitions")


def vector():
    return half_vectors(unit_vector()[None, :])[0]


def plan_as(alias: str, sql: str, params: list) -> Plan:
    """The plan of another statement, run as the role of `alias`."""
    with connections[alias].cursor() as cursor:
        cursor.execute(EXPLAIN + sql, params)
        tree = cursor.fetchone()[0]
    connections[alias].close()
    return Plan((json.loads(tree) if isinstance(tree, str) else tree)[0], "")


def test_the_neighbours_rows_lie_in_one_partition(neighbours):
    with connections["backup"].cursor() as cursor:
        cursor.execute(
            "SELECT tableoid, user_hash, count(*) FROM memory_chunks WHERE user_hash = ANY(%s) GROUP BY 1, 2",
            [[person.user_hash for person in neighbours]],
        )
        found = cursor.fetchall()
    assert {(user_hash, count) for _, user_hash, count in found} == {
        (neighbours[0].user_hash, OWN), (neighbours[1].user_hash, OTHERS),
    }  # fmt: skip
    assert len({partition for partition, _, _ in found}) == 1


@pytest.mark.parametrize(("who", "rows"), [(0, OWN), (1, OTHERS)])
def test_a_search_among_neighbours_visits_ones_own_rows_only(neighbours, capsys, who, rows):
    person = neighbours[who]
    status, printed, plan = explain_ann(capsys, "--user", person.user_id)
    assert (status, printed["findings"], printed["owned_rows"]) == (0, [], rows)
    assert printed["one_time_filter"]
    # A bitmap is named by its index, and that by its partition.
    partitions = set(re.findall(r"memory_chunks_p\d+", " ".join(printed["scans"])))
    assert len(partitions) == 1
    assert f"user_hash = '{person.user_hash}'" in plan
    assert neighbours[1 - who].user_hash not in plan


def test_without_a_user_it_takes_the_one_with_the_most_chunks(neighbours, capsys):
    with connections["maint"].cursor() as cursor:
        cursor.execute("SELECT max(chunk_count) FROM memory_tenants")
        [most] = cursor.fetchone()
    status, printed, _ = explain_ann(capsys)
    assert (status, printed["findings"]) == (0, [])
    assert printed["owned_rows"] == most >= OTHERS


def test_a_user_who_stored_nothing_has_nothing_to_visit(neighbours, capsys):
    status, printed, _ = explain_ann(capsys, "--user", Person.new("stranger").user_id)
    assert (status, printed["owned_rows"], printed["findings"]) == (0, 0, [])


@pytest.mark.parametrize("user", ["", " alice", "a" * 129, "tab\tin it"])
def test_a_user_id_that_cannot_be_one_is_a_usage_error(neighbours, capsys, user):
    status, printed, said = explain_ann(capsys, "--user", user)
    assert (status, printed) == (2, None)
    assert "not canonical" in said


# -- The judgement goes red on a plan that does visit others


def test_the_products_statement_in_a_plan_of_its_own_is_found_innocent(neighbours):
    plan, owned = explain_candidates(neighbours[0].user_hash, default_space(), vector(), 24)
    assert owned[CHUNKS] == OWN
    assert foreign_row_findings(plan, neighbours[0].user_hash, owned) == []


def test_a_statement_without_the_user_is_found_guilty(neighbours):
    """As r1_backup, whom no policy narrows: every partition, every user."""
    person = neighbours[0]
    # Of one dimension: other tests have users of other models.
    everybody = (
        "SELECT id FROM memory_chunks WHERE vector_dims(embedding) = 384 ORDER BY embedding <=> %s::halfvec LIMIT 24"
    )
    plan = plan_as("backup", everybody, [vector()])
    findings = foreign_row_findings(plan, person.user_hash, OWNED)
    assert [finding for finding in findings if finding.endswith("the policy is not a One-Time Filter above it")]
    assert [finding for finding in findings if finding.endswith("partitions of memory_chunks instead of one")]
    assert [finding for finding in findings if finding.endswith("is not narrowed to the user by an index")]
    assert [finding for finding in findings if finding.endswith(f"rows; the user owns {OWN}")]


def test_a_statement_narrowed_by_the_policy_alone_is_found_guilty(neighbours):
    """r1_app sees its own rows only, and the planner knew nothing of it."""
    person = neighbours[0]
    with tenant_transaction(person.user_hash) as tx:
        sql = "SELECT id FROM memory_chunks ORDER BY embedding <=> %s::halfvec LIMIT 24"
        tree = tx.execute(EXPLAIN + sql, [vector()]).fetchone()[0]
    plan = Plan((json.loads(tree) if isinstance(tree, str) else tree)[0], "")
    findings = foreign_row_findings(plan, person.user_hash, OWNED)
    assert [finding for finding in findings if finding.endswith("the policy is not a One-Time Filter above it")]


def test_a_neighbours_plan_is_found_guilty(neighbours):
    one, other = neighbours
    leg = vector_leg(other.user_hash, default_space(), vector(), 24, Filters())
    findings = foreign_row_findings(plan_as("backup", leg.sql, leg.params), one.user_hash, OWNED)
    assert [finding for finding in findings if finding.endswith("is not narrowed to the user by an index")]
    assert [finding for finding in findings if finding.endswith(f"visits {OTHERS} rows; the user owns {OWN}")]


@pytest.mark.parametrize(("runs", "removed", "visits"), [(48, 35, None), (48, 37, 37), (1, 36, 36)])
def test_a_mean_of_several_runs_that_was_rounded_up_is_no_row_of_others(runs, removed, visits):
    """Of 35 rows that each of 48 runs reads, 0.4 pass and 34.6 do not: PostgreSQL says 35."""
    scan = {
        "Node Type": "Index Scan", "Relation Name": "memory_chunks_p01", "One-Time Filter": "true",
        "Index Cond": f"(user_hash = '{'0' * 64}')", "Actual Loops": runs, "Actual Rows": 0.4 if runs > 1 else 0.0,
        "Rows Removed by Filter": removed,
    }  # fmt: skip
    findings = foreign_row_findings(Plan({"Plan": scan}, ""), "0" * 64, dict.fromkeys(OWNED, 35))
    expected = [f"Index Scan on memory_chunks_p01 visits {visits} rows; the user owns 35"] if visits else []
    assert [finding for finding in findings if "visits" in finding] == expected


def test_a_plan_that_reads_no_chunks_proves_nothing(neighbours):
    plan = plan_as("backup", "SELECT 1", [])
    assert "the plan reads no chunk table: nothing is proved" in foreign_row_findings(plan, "0" * 64, OWNED)


def test_scans_that_have_found_no_row_prove_nothing(neighbours):
    plan, owned = explain_candidates(neighbours[0].user_hash, default_space(), vector(), 0)
    findings = foreign_row_findings(plan, neighbours[0].user_hash, owned)
    assert findings == ["no scan of chunks has found a row: nothing is proved"]


@pytest.mark.parametrize("candidates", ["0", "-1"])
def test_no_candidates_are_a_usage_error(capsys, candidates):
    assert explain_ann(capsys, "--candidates", candidates)[0] == 2
