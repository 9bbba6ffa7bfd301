"""Every tenant table, every command, every way of being the wrong user, straight at the server.

Two users have rows in each table. r1_backup finds the same version of each row before and after every test, and the
same content in it before the first and after the last. Whatever r1_app, r1_staff, r1_maint and r1_owner try here goes
past the application: only PostgreSQL says no.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import errors, sql

from memory.isolation.audit import APPEND_ONLY_TABLES, STAFF_VIEWS, TENANT_TABLES
from memory.isolation.partitions import PARTITIONED_TABLES, PARTITIONS
from r1site.embedded.data_folder import SUPERUSER
from tests.db.server import bind, connect, digest

pytestmark = pytest.mark.usefixtures("rows_stay_as_they_are")

COMMANDS = {
    "SELECT": "SELECT user_hash FROM {table} WHERE {whose}",
    "UPDATE": "UPDATE {table} SET user_hash = user_hash WHERE {whose} RETURNING user_hash",
    "DELETE": "DELETE FROM {table} WHERE {whose} RETURNING user_hash",
    "SELECT FOR UPDATE": "SELECT user_hash FROM {table} WHERE {whose} FOR UPDATE",
}
# The ledger is read and added to; whoever asks for more is refused before a policy is asked whose row it is.
CHANGEABLE = [table for table in TENANT_TABLES if table not in APPEND_ONLY_TABLES]
REFUSED = [(table, command) for table in APPEND_ONLY_TABLES for command in COMMANDS if command != "SELECT"]
ALLOWED = [(table, command) for table in TENANT_TABLES for command in COMMANDS if (table, command) not in REFUSED]
INSERT = "INSERT INTO {table} SELECT * FROM jsonb_populate_record(NULL::{table}, %(row)s)"

# What app.user_hash holds -> how it came to that. None: it was never set.
WRONG_BINDINGS = {
    "never set": lambda keeper: None,
    "upper case": lambda keeper: keeper.user_hash.upper(),
    "63 digits": lambda keeper: keeper.user_hash[:63],
    "65 digits": lambda keeper: keeper.user_hash + "0",
    "a newline after it": lambda keeper: keeper.user_hash + "\n",
    "a space before it": lambda keeper: " " + keeper.user_hash,
    "another line before it": lambda keeper: "x\n" + keeper.user_hash,
    "SQL": lambda keeper: "' OR true --",
    "a pattern": lambda keeper: "%" * 64,
}
OTHER_ROLES = ("r1_owner", "r1_staff", "r1_maint", "r1_backup", "pg_read_all_data", SUPERUSER)


@contextmanager
def transaction_as(connection: psycopg.Connection, user_hash: str | None) -> Iterator[None]:
    """A real transaction, no savepoint, that is rolled back; bound to `user_hash` unless it is None."""
    with connection.transaction(force_rollback=True):
        if user_hash is not None:
            bind(connection, user_hash)
        yield


def run(connection: psycopg.Connection, statement: str, table: str, whose: str = "true", **params) -> psycopg.Cursor:
    composed = sql.SQL(statement).format(table=sql.Identifier(table), whose=sql.SQL(whose))
    return connection.execute(composed, params)


def a_row_of(backup: psycopg.Connection, table: str, user_hash: str) -> str:
    """One stored row as JSON, to be inserted again by somebody else."""
    rows = run(backup, "SELECT to_jsonb(r) FROM {table} r WHERE {whose}", table, "user_hash = %(h)s", h=user_hash)
    return json.dumps(rows.fetchone()[0])


def refusal(table: str, command: str, otherwise: str) -> str:
    """How r1_app is refused `command` on a table where it may not, or may but not like that."""
    return f"permission denied for table {table}" if (table, command) in REFUSED else otherwise


def tables_with_a_user_hash(connection: psycopg.Connection) -> list[str]:
    found = connection.execute(
        "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'user_hash'"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
        " ORDER BY c.relname"
    )
    return [name for (name,) in found]


def partitions_of(connection: psycopg.Connection) -> list[str]:
    found = connection.execute(
        "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'"
        " AND relnamespace = 'public'::regnamespace ORDER BY relname"
    )
    return [name for (name,) in found]


def test_the_matrix_covers_every_table_that_holds_a_tenants_rows(backup):
    assert tables_with_a_user_hash(backup) == sorted(TENANT_TABLES)
    assert [("memory_erasures", command) for command in ("UPDATE", "DELETE", "SELECT FOR UPDATE")] == REFUSED


# -- The right user


@pytest.mark.parametrize(("table", "command"), ALLOWED)
def test_a_sweep_without_a_condition_reaches_ones_own_rows_and_no_others(app, backup, keeper, table, command):
    own, _ = digest(backup, table, keeper.user_hash)
    with transaction_as(app, keeper.user_hash):
        assert run(app, COMMANDS[command], table).fetchall() == [(keeper.user_hash,)] * own


@pytest.mark.parametrize("table", TENANT_TABLES)
def test_one_sees_every_column_of_ones_own_rows_as_they_are_stored(app, backup, keeper, table):
    with transaction_as(app, keeper.user_hash):
        assert digest(app, table, keeper.user_hash) == digest(backup, table, keeper.user_hash)


@pytest.mark.parametrize("table", CHANGEABLE)
def test_a_row_that_one_deleted_can_be_inserted_again(app, backup, keeper, table):
    row = a_row_of(backup, table, keeper.user_hash)
    with transaction_as(app, keeper.user_hash):
        run(app, COMMANDS["DELETE"], table)
        assert run(app, INSERT + " RETURNING user_hash", table, row=row).fetchall() == [(keeper.user_hash,)]


@pytest.mark.parametrize(("table", "command"), REFUSED)
@pytest.mark.parametrize("whose", ["true", "user_hash = %(keeper)s", "user_hash = %(victim)s", "false"])
def test_what_stands_in_the_ledger_is_changed_deleted_and_locked_by_nobody_it_is_about(
    app, keeper, victim, table, command, whose
):
    with pytest.raises(errors.InsufficientPrivilege, match=f"permission denied for table {table}"):
        with transaction_as(app, keeper.user_hash):
            run(app, COMMANDS[command], table, whose, keeper=keeper.user_hash, victim=victim.user_hash)


def test_the_ledger_takes_another_line_about_oneself_and_never_the_same_one_twice(app, backup, keeper):
    row = a_row_of(backup, "memory_erasures", keeper.user_hash)
    another = json.dumps(json.loads(row) | {"id": "00000000-0000-4000-8000-000000000001"})
    with transaction_as(app, keeper.user_hash):
        added = run(app, INSERT + " RETURNING user_hash", "memory_erasures", row=another)
        assert added.fetchall() == [(keeper.user_hash,)]
        again = run(app, INSERT + " ON CONFLICT (user_hash, id) DO NOTHING", "memory_erasures", row=row)
        assert again.rowcount == 0


# -- The wrong user


@pytest.mark.parametrize(("table", "command"), ALLOWED)
def test_naming_another_users_hash_reaches_nothing(app, keeper, victim, table, command):
    with transaction_as(app, keeper.user_hash):
        cursor = run(app, COMMANDS[command], table, "user_hash = %(victim)s", victim=victim.user_hash)
        assert (cursor.fetchall(), cursor.rowcount) == ([], 0)


@pytest.mark.parametrize("table", TENANT_TABLES)
@pytest.mark.parametrize("ending", ["", " ON CONFLICT DO NOTHING", " RETURNING user_hash"])
def test_a_row_cannot_be_inserted_for_another_user_whether_they_have_it_or_not(
    app, backup, keeper, victim, table, ending
):
    """The same refusal for a key that is taken and for one that is free: no way to ask which keys exist."""
    taken = json.loads(a_row_of(backup, table, victim.user_hash))
    free = taken | {"user_hash": "0" * 64}
    refusals = []
    for row in (taken, free):
        with pytest.raises(errors.InsufficientPrivilege, match="violates row-level security policy") as refusal:
            with transaction_as(app, keeper.user_hash):
                run(app, INSERT + ending, table, row=json.dumps(row))
        refusals.append(str(refusal.value))
    assert refusals[0] == refusals[1]


@pytest.mark.parametrize("table", TENANT_TABLES)
def test_an_upsert_on_another_users_key_is_refused(app, backup, keeper, victim, table):
    row = a_row_of(backup, table, victim.user_hash)
    key = backup.execute(
        "SELECT string_agg(quote_ident(a.attname), ', ') FROM pg_index i JOIN pg_attribute a"
        " ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey) WHERE i.indrelid = %s::regclass AND i.indisprimary",
        [table],
    ).fetchone()[0]
    how = refusal(table, "UPDATE", otherwise="violates row-level security policy")
    with pytest.raises(errors.InsufficientPrivilege, match=how):
        with transaction_as(app, keeper.user_hash):
            upsert = f"{INSERT} ON CONFLICT ({key}) DO UPDATE SET user_hash = excluded.user_hash"
            run(app, upsert, table, row=row)


@pytest.mark.parametrize("table", TENANT_TABLES)
@pytest.mark.parametrize("returning", ["", " RETURNING user_hash"])
def test_ones_own_row_cannot_be_moved_to_another_user(app, keeper, victim, table, returning):
    how = refusal(table, "UPDATE", otherwise="violates row-level security policy")
    with pytest.raises(errors.InsufficientPrivilege, match=how):
        with transaction_as(app, keeper.user_hash):
            run(app, "UPDATE {table} SET user_hash = %(victim)s" + returning, table, victim=victim.user_hash)


@pytest.mark.parametrize("table", CHANGEABLE)
def test_a_merge_neither_matches_nor_makes_another_users_rows(app, keeper, victim, table):
    source = "MERGE INTO {table} t USING (SELECT %(victim)s::text AS user_hash) s ON t.user_hash = s.user_hash "
    with transaction_as(app, keeper.user_hash):
        for action in ("DELETE", "UPDATE SET user_hash = s.user_hash"):
            cursor = run(app, source + f"WHEN MATCHED THEN {action}", table, victim=victim.user_hash)
            assert cursor.rowcount == 0
    everything = "MERGE INTO {table} t USING (SELECT %(victim)s::text AS user_hash) s ON true WHEN MATCHED THEN "
    with pytest.raises(errors.InsufficientPrivilege, match="violates row-level security policy"):
        with transaction_as(app, keeper.user_hash):
            run(app, everything + "UPDATE SET user_hash = s.user_hash", table, victim=victim.user_hash)


@pytest.mark.parametrize("table", APPEND_ONLY_TABLES)
@pytest.mark.parametrize("action", ["DELETE", "UPDATE SET user_hash = s.user_hash"])
def test_a_merge_cannot_change_the_ledger(app, keeper, table, action):
    source = "MERGE INTO {table} t USING (SELECT %(keeper)s::text AS user_hash) s ON t.user_hash = s.user_hash "
    with pytest.raises(errors.InsufficientPrivilege, match=f"permission denied for table {table}"):
        with transaction_as(app, keeper.user_hash):
            run(app, source + f"WHEN MATCHED THEN {action}", table, keeper=keeper.user_hash)


@pytest.mark.parametrize("table", CHANGEABLE)
def test_locking_a_table_full_of_rows_locks_ones_own_only(app, keeper, victim, table):
    with connect("r1_app") as other, transaction_as(app, keeper.user_hash), transaction_as(other, victim.user_hash):
        run(app, COMMANDS["SELECT FOR UPDATE"], table)
        locked = run(other, COMMANDS["SELECT FOR UPDATE"] + " NOWAIT", table).fetchall()
        assert set(locked) == {(victim.user_hash,)}


@pytest.mark.parametrize("table", TENANT_TABLES)
def test_copy_gives_out_ones_own_rows_and_takes_none_in(app, backup, keeper, table):
    own, _ = digest(backup, table, keeper.user_hash)
    with transaction_as(app, keeper.user_hash):
        with app.cursor().copy(f"COPY (SELECT user_hash FROM {table}) TO STDOUT") as copied:
            assert list(copied.rows()) == [(keeper.user_hash,)] * own
    with pytest.raises(errors.FeatureNotSupported, match="row-level security"):
        with transaction_as(app, keeper.user_hash), app.cursor().copy(f"COPY {table} FROM STDIN"):
            pass


@pytest.mark.parametrize("table", TENANT_TABLES)
def test_a_condition_that_would_fail_on_another_users_row_never_sees_it(app, backup, keeper, victim, table):
    own, _ = digest(backup, table, keeper.user_hash)
    trap = "1 / (CASE WHEN user_hash = %(victim)s THEN 0 ELSE 1 END) = 1"
    with transaction_as(app, keeper.user_hash):
        assert len(run(app, COMMANDS["SELECT"], table, trap, victim=victim.user_hash).fetchall()) == own
    with pytest.raises(errors.DivisionByZero):
        run(backup, COMMANDS["SELECT"], table, trap, victim=victim.user_hash)


# -- Nobody, and nobody in particular


@pytest.mark.parametrize("table", TENANT_TABLES)
@pytest.mark.parametrize("binding", WRONG_BINDINGS)
def test_without_a_well_formed_hash_every_command_is_an_error(app, backup, keeper, victim, table, binding):
    bound = WRONG_BINDINGS[binding](keeper)
    for whose in ("true", "user_hash = %(victim)s"):
        for command, statement in COMMANDS.items():
            how = refusal(table, command, otherwise="no tenant is bound")
            with pytest.raises(errors.InsufficientPrivilege, match=how), transaction_as(app, bound):
                run(app, statement, table, whose, victim=victim.user_hash)
    for person in (keeper, victim):
        row = a_row_of(backup, table, person.user_hash)
        with pytest.raises(errors.InsufficientPrivilege, match="no tenant is bound"), transaction_as(app, bound):
            run(app, INSERT, table, row=row)
    with pytest.raises(errors.InsufficientPrivilege, match="no tenant is bound"), transaction_as(app, bound):
        with app.cursor().copy(f"COPY (SELECT * FROM {table}) TO STDOUT") as copied:
            assert list(copied) == []


@pytest.mark.parametrize("table", TENANT_TABLES)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("ending", ["committed", "rolled back"])
def test_a_connection_remembers_nobody_after_a_transaction_that_bound_someone(app, keeper, table, command, ending):
    with app.transaction(force_rollback=ending == "rolled back"):
        bind(app, keeper.user_hash)
        assert run(app, COMMANDS["SELECT"], table).fetchall()
    assert app.execute("SELECT current_setting('app.user_hash', true)").fetchone() == ("",)
    how = refusal(table, command, otherwise="no tenant is bound")
    with pytest.raises(errors.InsufficientPrivilege, match=how):
        run(app, COMMANDS[command], table)


def test_a_setting_made_inside_a_savepoint_that_was_rolled_back_is_gone(app, keeper):
    with app.transaction(force_rollback=True):
        with app.transaction(force_rollback=True):
            bind(app, keeper.user_hash)
        with pytest.raises(errors.InsufficientPrivilege, match="no tenant is bound"):
            run(app, COMMANDS["SELECT"], "memory_chunks")


# -- Sleight of hand


@pytest.mark.parametrize("table", TENANT_TABLES)
def test_changing_the_setting_in_the_middle_of_a_statement_changes_nothing(app, keeper, victim, table):
    flip = "set_config('app.user_hash', %(victim)s, true) IS NOT NULL"
    with transaction_as(app, keeper.user_hash):
        seen = set(run(app, COMMANDS["SELECT"], table, flip, victim=victim.user_hash).fetchall())
        assert seen == {(keeper.user_hash,)}


def test_changing_the_setting_under_an_open_cursor_changes_nothing(app, keeper, victim):
    with transaction_as(app, keeper.user_hash):
        app.execute("DECLARE open_cursor CURSOR FOR SELECT user_hash FROM memory_chunks")
        assert app.execute("FETCH 1 FROM open_cursor").fetchall() == [(keeper.user_hash,)]
        bind(app, victim.user_hash)
        assert set(app.execute("FETCH ALL FROM open_cursor").fetchall()) == {(keeper.user_hash,)}


@pytest.mark.parametrize("plans", ["auto", "force_generic_plan", "force_custom_plan"])
def test_a_prepared_statement_serves_whoever_is_bound_now(app, keeper, victim, plans):
    app.execute(f"SET plan_cache_mode = {plans}")
    app.execute("PREPARE everything AS SELECT DISTINCT user_hash FROM memory_chunks")
    for person in [keeper, victim] * 4:
        with transaction_as(app, person.user_hash):
            assert app.execute("EXECUTE everything").fetchall() == [(person.user_hash,)]
    with pytest.raises(errors.InsufficientPrivilege, match="no tenant is bound"):
        app.execute("EXECUTE everything")


@pytest.mark.parametrize("table", TENANT_TABLES)
def test_switching_row_security_off_is_an_error_and_not_a_way_in(app, keeper, table):
    with pytest.raises(errors.InsufficientPrivilege, match="would be affected by row-level security"):
        with transaction_as(app, keeper.user_hash):
            app.execute("SET LOCAL row_security = off")
            run(app, COMMANDS["SELECT"], table)


@pytest.mark.parametrize("role", OTHER_ROLES)
def test_the_service_cannot_become_another_role(app, role):
    for statement in ("SET ROLE {}", "SET SESSION AUTHORIZATION {}", "GRANT {} TO r1_app"):
        with pytest.raises(errors.InsufficientPrivilege):
            app.execute(sql.SQL(statement).format(sql.Identifier(role)))
    assert app.execute("SELECT current_user, session_user").fetchone() == ("r1_app", "r1_app")


@pytest.mark.parametrize(
    "statement",
    [
        "TRUNCATE memory_chunks",
        "TRUNCATE memory_tenants, memory_data_keys, memory_documents",
        "ALTER TABLE memory_chunks DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE memory_chunks NO FORCE ROW LEVEL SECURITY",
        "DROP POLICY memory_tenant_isolation_select ON memory_chunks",
        "CREATE POLICY all_of_it ON memory_chunks USING (true)",
        "ALTER POLICY memory_tenant_isolation_select ON memory_chunks USING (true)",
        "CREATE OR REPLACE FUNCTION memory_current_user_hash() RETURNS text LANGUAGE sql AS 'SELECT user_hash'",
        "ALTER FUNCTION memory_current_user_hash() SECURITY DEFINER",
        "CREATE FUNCTION peek(text) RETURNS boolean LANGUAGE sql COST 0.0001 AS 'SELECT true'",
        "CREATE TABLE copies AS SELECT 1",
        "CREATE TEMPORARY TABLE copies (id integer)",
        "CREATE VIEW everything AS SELECT * FROM memory_chunks",
        "CREATE INDEX sideways ON memory_chunks (doc_id)",
        "CREATE TRIGGER spy BEFORE INSERT ON memory_chunks EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE RULE spy AS ON SELECT TO memory_chunks DO INSTEAD NOTHING",
        "ALTER TABLE memory_chunks DETACH PARTITION memory_chunks_p00",
        "CREATE STATISTICS spy ON user_hash, doc_id FROM memory_chunks",
        "ALTER ROLE r1_app BYPASSRLS",
        "ALTER ROLE r1_app SUPERUSER",
        "CREATE ROLE accomplice",
        "CREATE SCHEMA hidden",
        "COPY (SELECT 1) TO PROGRAM 'cat'",
        "COPY (SELECT 1) TO '/tmp/out'",
        "SELECT pg_read_file('postgresql.conf')",
        "INSERT INTO memory_spaces VALUES (99, 'x', '1', false, '')",
        "UPDATE memory_spaces SET is_default = false",
        "DELETE FROM django_migrations",
    ],
)
def test_the_service_may_not_change_the_house_it_lives_in(app, statement):
    with pytest.raises(errors.InsufficientPrivilege):
        app.execute(statement)


@pytest.mark.parametrize("role", ["r1_app", "r1_maint", "r1_backup"])
def test_nobody_but_the_owner_can_pass_rights_on(backup, role):
    """PostgreSQL only warns when somebody grants what they may not."""
    rights = "SELECT relacl::text FROM pg_class WHERE relname = 'memory_chunks'"
    before = backup.execute(rights).fetchone()
    with connect(role) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute("GRANT ALL ON memory_chunks TO PUBLIC")
    assert backup.execute(rights).fetchone() == before


# -- Side doors


def held_partitions(backup: psycopg.Connection, user_hash: str) -> dict[str, str]:
    """The partitions that hold rows of this user, each with its table."""
    return {
        name: table
        for table in PARTITIONED_TABLES
        for (name,) in run(backup, "SELECT DISTINCT tableoid::regclass::text FROM {table} WHERE {whose}", table,
                           "user_hash = %(h)s", h=user_hash)
    }  # fmt: skip


def test_a_partition_shows_ones_own_rows_and_is_changed_through_its_table_alone(app, backup, keeper, victim):
    partitions = partitions_of(backup)
    assert len(partitions) == PARTITIONS * len(PARTITIONED_TABLES)
    own = held_partitions(backup, keeper.user_hash)
    assert (
        sorted(own.values()) == sorted(held_partitions(backup, victim.user_hash).values()) == sorted(PARTITIONED_TABLES)
    )
    with transaction_as(app, keeper.user_hash):
        for partition in partitions:
            seen = run(app, COMMANDS["SELECT"], partition).fetchall()
            if partition not in own:
                assert seen == []
                continue
            assert set(seen) == {(keeper.user_hash,)}
            assert digest(app, partition, keeper.user_hash) == digest(backup, own[partition], keeper.user_hash)
    changing = [COMMANDS[command] for command in ("UPDATE", "DELETE", "SELECT FOR UPDATE")]
    for partition in partitions:
        for command in [*changing, "TRUNCATE {table}", "LOCK TABLE {table}"]:
            with pytest.raises(errors.InsufficientPrivilege, match=f"permission denied for table {partition}"):
                with transaction_as(app, keeper.user_hash):
                    run(app, command, partition)
    for partition, table in own.items():
        with pytest.raises(errors.InsufficientPrivilege, match="permission denied for table"):
            with transaction_as(app, keeper.user_hash):
                run(app, INSERT, partition, row=a_row_of(backup, table, keeper.user_hash))


@pytest.mark.parametrize("binding", WRONG_BINDINGS)
def test_a_partition_answers_no_wrong_binding(app, backup, keeper, binding):
    for partition in held_partitions(backup, keeper.user_hash):
        with pytest.raises(errors.InsufficientPrivilege, match="no tenant is bound"):
            with transaction_as(app, WRONG_BINDINGS[binding](keeper)):
                run(app, COMMANDS["SELECT"], partition)


def test_the_toast_tables_that_hold_the_sealed_blobs_are_closed(app, backup, victim):
    [(toast,)] = backup.execute(
        "SELECT DISTINCT c.reltoastrelid::regclass::text FROM memory_chunks m JOIN pg_class c ON c.oid = m.tableoid"
        " WHERE m.user_hash = %s LIMIT 1",
        [victim.user_hash],
    ).fetchall()
    with pytest.raises(errors.InsufficientPrivilege):
        with transaction_as(app, victim.user_hash):
            app.execute(f"SELECT * FROM {toast}")


# Whole tables that are no user's and that a role may read: of those it may know the statistics as well.
NOBODYS_TABLES = {
    "r1_app": {"memory_flags", "memory_key_changes", "memory_master_keys", "memory_spaces", "memory_workers"},
    "r1_staff": {
        "memory_audit", "memory_flags", "memory_hmac_keys", "memory_key_rotations", "memory_master_keys",
        "memory_rollouts", "memory_spaces", "memory_workers",
    },
}  # fmt: skip


@pytest.mark.parametrize("role", NOBODYS_TABLES)
def test_the_planners_statistics_tell_nothing_of_a_user(keeper, role, database):
    """pg_stats shows most common values, among them hashes and document ids, to whoever may read the column."""
    with connect(SUPERUSER) as superuser:
        # Every table: else it would hang on autovacuum what there is to see.
        superuser.execute("ANALYZE")
        seen_by_superuser = tables_with_statistics(superuser)
    assert seen_by_superuser >= {*TENANT_TABLES, "memory_spaces"}
    with connect(role) as connection:
        bind(connection, keeper.user_hash, local=False)
        assert tables_with_statistics(connection) <= NOBODYS_TABLES[role]


def tables_with_statistics(connection: psycopg.Connection) -> set[str]:
    """The service's tables of which this role is shown the planner's statistics."""
    return {table for (table,) in connection.execute("SELECT tablename FROM pg_stats WHERE tablename ~ '^memory_'")}


@pytest.mark.parametrize("view", STAFF_VIEWS)
def test_the_service_cannot_read_what_staff_may(app, keeper, view):
    with pytest.raises(errors.InsufficientPrivilege, match=f"permission denied for view {view}"):
        with transaction_as(app, keeper.user_hash):
            run(app, COMMANDS["SELECT"], view)


# -- Staff, backup, maintenance, owner


def columns_of(connection: psycopg.Connection, table: str) -> list[str]:
    found = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped", [table]
    )
    return [name for (name,) in found]


@pytest.mark.parametrize("table", TENANT_TABLES)
def test_staff_may_read_no_column_of_a_tenant_table(backup, keeper, table):
    columns = columns_of(backup, table)
    assert "user_hash" in columns
    with connect("r1_staff") as staff:
        bind(staff, keeper.user_hash, local=False)
        for what in [*columns, "*", "t", "count(*)", "t::text", "to_jsonb(t)", "1"]:
            with pytest.raises(errors.InsufficientPrivilege, match=f"permission denied for table {table}"):
                staff.execute(f"SELECT {what} FROM {table} t")
        for command in (*COMMANDS.values(), "TRUNCATE {table}"):
            with pytest.raises(errors.InsufficientPrivilege, match=f"permission denied for table {table}"):
                run(staff, command, table)
        with pytest.raises(errors.InsufficientPrivilege):
            with staff.cursor().copy(f"COPY (SELECT * FROM {table}) TO STDOUT"):
                pass


@pytest.mark.parametrize("view", STAFF_VIEWS)
def test_staff_see_everybodys_metadata_and_can_write_none_of_it(backup, keeper, victim, view):
    table = view.removesuffix("_meta")
    with connect("r1_staff") as staff:
        for person in (keeper, victim):
            assert digest(staff, view, person.user_hash)[0] == digest(backup, table, person.user_hash)[0]
        for command in ("UPDATE", "DELETE", "SELECT FOR UPDATE"):
            with pytest.raises(errors.InsufficientPrivilege, match=f"permission denied for view {view}"):
                run(staff, COMMANDS[command], view)


@pytest.mark.parametrize("view", STAFF_VIEWS)
def test_no_metadata_view_has_a_sealed_or_a_vector_column(backup, view):
    types = backup.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0",
        [view],
    ).fetchall()
    assert ("user_hash", "text") in types
    assert [(name, kind) for name, kind in types if kind == "bytea" or "vec" in kind or kind.endswith("[]")] == []


def test_the_backup_role_reads_everything_and_writes_nothing(backup, keeper, victim):
    for table in (*TENANT_TABLES, "memory_spaces", "django_migrations"):
        assert run(backup, "SELECT count(*) FROM {table}", table).fetchone()[0] > 0
        with pytest.raises(errors.ReadOnlySqlTransaction):
            run(backup, "DELETE FROM {table}", table)
    with connect("r1_backup") as writing:
        writing.execute("SET default_transaction_read_only = off")
        for table in TENANT_TABLES:
            row = a_row_of(backup, table, victim.user_hash)
            for statement in (COMMANDS["UPDATE"], COMMANDS["DELETE"], INSERT, "TRUNCATE {table}"):
                with pytest.raises(errors.InsufficientPrivilege, match=f"permission denied for table {table}"):
                    run(writing, statement, table, row=row)
        for view in STAFF_VIEWS:
            # Its own views are automatically updatable: the table beneath is what refuses.
            with pytest.raises(errors.InsufficientPrivilege, match="permission denied for table"):
                run(writing, COMMANDS["DELETE"], view)
        with pytest.raises(errors.InsufficientPrivilege):
            writing.execute("CREATE TABLE copies (id integer)")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE copies (id integer)",
        "CREATE TEMPORARY TABLE copies (id integer)",
        "ALTER TABLE memory_chunks DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE memory_chunks_p00 NO FORCE ROW LEVEL SECURITY",
        "DROP POLICY memory_tenant_isolation_select ON memory_chunks",
        "DROP TABLE memory_chunks",
        "CREATE INDEX sideways ON memory_chunks (doc_id)",
        "TRUNCATE memory_chunks",
        "ALTER FUNCTION memory_current_user_hash() IMMUTABLE",
        "ALTER ROLE r1_app BYPASSRLS",
        "SET ROLE r1_owner",
        "SET ROLE r1_backup",
    ],
)
def test_maintenance_moves_rows_and_changes_no_structure(keeper, victim, statement):
    with connect("r1_maint") as maint:
        for table in TENANT_TABLES:
            with maint.transaction(force_rollback=True):
                assert run(maint, COMMANDS["DELETE"], table, "user_hash = %(h)s", h=victim.user_hash).rowcount > 0
        for table in APPEND_ONLY_TABLES:
            with pytest.raises(errors.InsufficientPrivilege, match=f"permission denied for table {table}"):
                run(maint, COMMANDS["UPDATE"], table, "user_hash = %(h)s", h=victim.user_hash)
        with pytest.raises(errors.InsufficientPrivilege):
            maint.execute(statement)


@pytest.mark.parametrize("table", TENANT_TABLES)
def test_the_owner_under_force_sees_no_row_and_writes_none(backup, keeper, victim, table):
    row = a_row_of(backup, table, victim.user_hash)
    with connect("r1_owner") as owner:
        for bound in (None, victim.user_hash):
            with transaction_as(owner, bound):
                for command in COMMANDS.values():
                    assert run(owner, command, table).fetchall() == []
            with pytest.raises(errors.InsufficientPrivilege, match="violates row-level security policy"):
                with transaction_as(owner, bound):
                    run(owner, INSERT, table, row=row)


@pytest.mark.parametrize("table", TENANT_TABLES)
def test_the_owner_who_asks_for_all_rows_is_refused_and_not_given_none(table):
    with connect("r1_owner") as owner:
        owner.execute("SET row_security = off")
        for command in COMMANDS.values():
            with pytest.raises(errors.InsufficientPrivilege, match="would be affected by row-level security"):
                run(owner, command, table)
