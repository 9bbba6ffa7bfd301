"""The migrations, forwards and backwards, on real rows, in a database of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from ast import literal_eval
from dataclasses import dataclass
from pathlib import Path

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import ProgrammingError, connections
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

from memory.isolation.audit import APP_MAY, TENANT_TABLES, verify_rls_isolation
from r1site.embedded.data_folder import SUPERUSER
from tests.db.catalogue import as_below, catalogue, rows
from tests.db.memories import flush_terms, remember, remember_requests, remember_summary
from tests.db.scratch import ScratchDatabase, scratch_database
from tests.db.server import connect
from tests.people import Person

PROJECT = Path(__file__).resolve().parents[2]
MIGRATIONS = sorted(path.stem for path in (PROJECT / "memory/migrations").glob("[0-9]*.py"))
MODELS = list(apps.get_app_config("memory").get_models())
DJANGOS_OWN = ("admin", "auth", "axes", "contenttypes", "sessions")
ISOLATION = "0011_isolation"
MADE_LATER = {"memory_moves", "memory_moved_documents"}
# Which column of which table a migration puts into another form.
REWRITTEN = {"0026_packed_postings": ("memory_lexical_blocks", "postings")}
KINDS_THAT_MUST_BE_THERE = {
    "relations", "columns", "policies", "grants", "constraints", "indexes", "functions", "views", "schemas",
    "default privileges",
}  # fmt: skip


@dataclass(frozen=True)
class State:
    """A database at one moment: its schema and its rows."""

    catalogue: dict[str, list[str]]
    rows: dict[str, tuple[int, dict[str, str]]]


@dataclass(frozen=True)
class Step:
    """One migration taken back and made again, with rows in the tables."""

    before: State
    below: State
    after: State


@dataclass(frozen=True)
class Walk:
    """Everything the module asks about, recorded on one way down and up again."""

    empty: dict[str, list[str]]
    filled: State
    steps: dict[str, Step]
    zero: State
    again: State


@pytest.fixture(scope="module")
def walk(database) -> Walk:
    """Up, rows of two users, down one migration at a time (each made once again on the way), up."""
    with scratch_database("migrations") as scratch, scratch.connect() as superuser:

        def state() -> State:
            return State(catalogue(superuser), rows(superuser))

        def move_to(target: str) -> State:
            scratch.step(target)
            return state()

        with scratch.as_alias("owner"):
            MigrationRecorder(connections["owner"]).ensure_schema()  # Django's own tables stay for good
            for application in DJANGOS_OWN:
                call_command("migrate", application, database="owner", verbosity=0)
        empty = catalogue(superuser)
        scratch.migrate()
        _fill(scratch)
        filled = here = state()
        steps = {}
        for name, below in reversed(list(zip(MIGRATIONS, ["zero", *MIGRATIONS], strict=False))):
            steps[name] = Step(here, move_to(below), move_to(name))
            here = move_to(below)
        zero = here
        scratch.migrate()
        yield Walk(empty, filled, steps, zero, state())


def _fill(scratch: ScratchDatabase) -> None:
    with scratch.as_alias("default"):
        for name in ("alice", "bob"):
            person = Person.new(name)
            remember(person, "a", "b")
            remember_summary(person, "sum", "b", "a", "gone")
            flush_terms(person, chunks=2)
            remember_requests(person)


def test_the_walk_saw_every_migration_and_every_kind_of_object(walk):
    assert list(walk.steps) == MIGRATIONS[::-1]
    assert sorted(name for app, name in MigrationLoader(None).disk_migrations if app == "memory") == MIGRATIONS
    assert {kind for kind, objects in walk.filled.catalogue.items() if objects} >= KINDS_THAT_MUST_BE_THERE
    assert all(walk.filled.rows[table][0] > 0 for table in TENANT_TABLES)


@pytest.mark.parametrize("name", MIGRATIONS)
def test_a_migration_taken_back_and_made_again_leaves_the_schema_as_it_was(walk, name):
    step = walk.steps[name]
    assert step.below.catalogue != step.before.catalogue
    assert step.after.catalogue == step.before.catalogue


@pytest.mark.parametrize("name", MIGRATIONS)
def test_a_migration_taken_back_and_made_again_touches_no_row_of_the_tables_below_it(walk, name):
    step = walk.steps[name]
    kept = dict(step.below.rows)
    if name in REWRITTEN:
        table, rewritten = REWRITTEN[name]
        count, columns = kept[table]
        kept[table] = count, {column: hashed for column, hashed in columns.items() if column != rewritten}
        # Packed, unpacked and packed again: nothing can have got lost between.
        assert step.after.rows[table] == step.before.rows[table] != step.below.rows[table]
    for state in (step.before, step.after):
        assert {table: as_below(state.rows[table], below) for table, below in kept.items()} == kept
    made = set(step.before.rows) - set(kept)
    assert all(step.after.rows[table][0] == 0 for table in made)


def test_rows_of_two_users_stood_in_every_tenant_table_while_isolation_was_lifted_and_put_back(walk):
    step = walk.steps[ISOLATION]
    made_so_far = set(TENANT_TABLES) & set(step.before.rows)
    assert made_so_far == set(TENANT_TABLES) - MADE_LATER
    for table in made_so_far:
        assert step.before.rows[table] == step.below.rows[table] == step.after.rows[table]
        assert step.before.rows[table][0] >= 2


def test_while_isolation_is_lifted_the_service_has_no_way_in_to_any_row_of_a_user(walk):
    below = walk.steps[ISOLATION].below.catalogue
    assert below["policies"] == []
    granted = [grant for grant in map(literal_eval, below["grants"]) if grant[1] == "r1_app"]
    assert {table for table, *_ in granted} == {"memory_spaces", "memory_key_changes", "memory_flags"}
    assert not [grant for grant in granted if grant[2] not in APP_MAY[grant[0]]]


def test_at_zero_nothing_is_left_and_the_way_up_makes_it_all_again(walk):
    assert walk.zero.catalogue == walk.empty
    assert walk.zero.rows == {}
    assert walk.again.catalogue == walk.filled.catalogue
    assert set(walk.again.rows) == set(walk.filled.rows)


def test_the_way_up_makes_every_table_and_keeps_tenants_apart(database):
    with scratch_database("up") as scratch:
        scratch.migrate()
        _fill(scratch)
        with scratch.connect("r1_app") as app, scratch.connect() as superuser:
            assert verify_rls_isolation(app) == []
            stored = rows(superuser)
            assert all(stored[table][0] > 0 for table in TENANT_TABLES)


def test_the_schema_made_a_second_time_keeps_tenants_apart(database):
    with scratch_database("again") as scratch:
        for target in ([], ["zero"], []):
            scratch.migrate(*target)
        _fill(scratch)
        with scratch.connect("r1_app") as app, scratch.connect() as superuser:
            assert verify_rls_isolation(app) == []
            before = catalogue(superuser), rows(superuser)
            # What every start of the embedded server does, and an operator with roles.sql after an upgrade.
            scratch.bootstrap()
            assert (catalogue(superuser), rows(superuser)) == before


def test_a_database_of_the_schema_before_is_refused_and_told_the_way_out(database):
    with scratch_database("former") as scratch, scratch.connect() as superuser:
        with scratch.as_alias("owner"):
            MigrationRecorder(connections["owner"]).ensure_schema()
        superuser.execute(
            "INSERT INTO django_migrations (app, name, applied) VALUES ('memory', '0001_guard', now()),"
            " ('memory', '0002_tenants', now())"
        )
        nothing = catalogue(superuser)
        with pytest.raises(Exception, match="make former-export"):
            scratch.migrate()
        assert catalogue(superuser) == nothing


def test_only_the_owner_can_migrate(database):
    with scratch_database("refused") as scratch, scratch.connect() as superuser:
        nothing = catalogue(superuser)
        for role in ("r1_app", "r1_staff", "r1_maint", "r1_backup"):
            with pytest.raises(Exception, match=r"permission denied|read-only transaction"):
                scratch.migrate(role=role)
            assert catalogue(superuser) == nothing
        scratch.migrate()
        everything = catalogue(superuser)
        assert everything != nothing
        with pytest.raises(ProgrammingError, match=r"permission denied|must be owner"):
            scratch.migrate("zero", role="r1_app")
        assert catalogue(superuser) == everything


def test_migrating_the_services_own_alias_changes_nothing(database):
    with scratch_database("default") as scratch, scratch.connect() as superuser:
        scratch.migrate()
        everything = catalogue(superuser)
        scratch.migrate(alias="default")
        assert catalogue(superuser) == everything
        with pytest.raises(ProgrammingError, match="permission denied"):
            scratch.migrate("zero", alias="default")
        assert catalogue(superuser) == everything
        with scratch.as_alias("owner"):
            assert MigrationRecorder(connections["owner"]).applied_migrations().keys() >= {("memory", MIGRATIONS[-1])}


def test_the_models_need_no_migration_that_is_not_there(database, capsys):
    call_command("makemigrations", "--check", "--dry-run", "memory")
    assert "No changes detected" in capsys.readouterr().out


READABLE = "has_column_privilege(%s, quote_ident(table_name), column_name, 'SELECT')"


def _reader(model) -> str:
    return "r1_staff" if getattr(model, "is_for_staff", False) else "r1_owner"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_a_model_has_the_columns_of_its_table_and_may_be_null_where_it_may(database, model):
    """Those that its reader may read: of a model for staff, r1_staff."""
    with connect(SUPERUSER) as superuser:
        columns = superuser.execute(
            "SELECT column_name, is_nullable = 'YES' FROM information_schema.columns"
            f" WHERE table_schema = 'public' AND table_name = %s AND {READABLE}",
            [model._meta.db_table, _reader(model)],
        ).fetchall()
        [is_view] = superuser.execute("SELECT relkind = 'v' FROM pg_class WHERE relname = %s", [model._meta.db_table])
    fields = [field for field in model._meta.local_concrete_fields if field.column is not None]
    assert sorted(field.column for field in fields) == sorted(name for name, _ in columns)
    if is_view == (False,):
        assert {(field.column, field.null) for field in fields} == set(columns)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_a_models_types_are_its_tables_types(database, model):
    with connect(SUPERUSER) as superuser:
        types = superuser.execute(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"
            " AND has_column_privilege(%s, attrelid, attnum, 'SELECT')",
            [model._meta.db_table, _reader(model)],
        ).fetchall()
    declared = {
        field.column: field.db_parameters(connections["default"])["type"]
        for field in model._meta.local_concrete_fields
        if field.column is not None
    }
    assert declared == dict(types)


# -- Layout


def test_every_partition_is_laid_out_for_exact_search(database):
    with connect(SUPERUSER) as superuser:
        partitions = superuser.execute(
            "SELECT c.relname, c.reloptions FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = 'memory_chunks'::regclass"
        ).fetchall()
        assert len(partitions) == 64
        assert {tuple(options) for _, options in partitions} == {("toast_tuple_target=1152",)}
        for name, _ in partitions:
            storage = dict(
                superuser.execute(
                    "SELECT attname, attstorage::text FROM pg_attribute WHERE attrelid = %s::regclass", [name]
                ).fetchall()
            )
            assert storage["embedding"] == "p", name
            assert [storage[column] for column in ("text_cipher", "meta_cipher", "emb_cipher")] == ["e"] * 3, name


def test_hashes_compare_byte_by_byte_wherever_they_stand(database):
    """Another collation makes the index useless under the policy."""
    with connect(SUPERUSER) as superuser:
        collations = superuser.execute(
            "SELECT c.relname, l.collname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a"
            " JOIN pg_class c ON c.oid = a.attrelid JOIN pg_collation l ON l.oid = a.attcollation"
            " WHERE a.attname = 'user_hash' AND c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace"
        ).fetchall()
    assert {name for name, _, _ in collations} >= set(TENANT_TABLES)
    assert {(collation, kind) for _, collation, kind in collations} == {("C", "text")}


def test_every_key_of_a_tenant_table_leads_with_the_user(database):
    with connect(SUPERUSER) as superuser:
        keys = superuser.execute(
            "SELECT i.indexrelid::regclass::text, a.attname FROM pg_index i"
            " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]"
            " WHERE i.indrelid::regclass::text = ANY(%s)",
            [list(TENANT_TABLES)],
        ).fetchall()
        crossing = superuser.execute(
            "SELECT conname FROM pg_constraint WHERE contype = 'f' AND conrelid::regclass::text ~ '^memory_'"
            " AND NOT pg_get_constraintdef(oid) ~ '^FOREIGN KEY \\(user_hash'"
        ).fetchall()
    assert len(keys) >= len(TENANT_TABLES)
    assert {column for _, column in keys} == {"user_hash"}
    assert crossing == []


def test_a_migration_file_is_literal_sql_with_a_way_back(database):
    for name in MIGRATIONS:
        text = (PROJECT / f"memory/migrations/{name}.py").read_text()
        assert "memory.models" not in text and "settings" not in text, name
    folder = PROJECT / "memory/migrations/sql"
    ups = {path.name.removesuffix(".up.sql") for path in folder.glob("*.up.sql")}
    assert ups and ups == {path.name.removesuffix(".down.sql") for path in folder.glob("*.down.sql")}
    assert all(path.read_text().strip() for path in folder.glob("*.sql"))


def test_migrate_from_the_command_line_reports_nothing_to_do_as_the_owner(database):
    done = subprocess.run(
        [sys.executable, "manage.py", "migrate", "--database", "owner", "--check"],
        cwd=PROJECT, capture_output=True, text=True,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "r1site.settings.test"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
