"""What our roles may do beside the tables, against what deploy/postgres/roles.sql makes; part of `verify_rls`.

None of it opens a tenant's rows by itself, so a worker starts with such findings; but for the settings of
STOPPING_SETTINGS, which `rls_audit.py` looks at before that.
"""

from __future__ import annotations

from collections.abc import Iterator

from memory.isolation.connection import Connection, Row

OWNER = "r1_owner"
OUR_ROLES = (OWNER, "r1_app", "r1_staff", "r1_maint", "r1_backup")
MEMBERSHIPS = {("r1_owner", "r1_backup")}

_BOUNDS = {
    "row_security": "on",
    "statement_timeout": "5s",
    "lock_timeout": "1500ms",
    "idle_in_transaction_session_timeout": "10s",
}
# As roles.sql writes them.
ROLE_SETTINGS = {
    "r1_owner": {"search_path": "public"},
    "r1_app": {
        "search_path": "public", **_BOUNDS, "plan_cache_mode": "force_custom_plan", "enable_seqscan": "off",
        "max_parallel_workers_per_gather": "0",
    },
    "r1_staff": {"search_path": "public", **_BOUNDS},
    "r1_maint": {"search_path": "public"},
    "r1_backup": {"search_path": "public", "default_transaction_read_only": "on"},
}  # fmt: skip
# These decide whose rows, or which tables, a statement means. A default for app.* would bind whoever forgets to bind.
STOPPING_SETTINGS = ("search_path", "row_security", "role", "session_replication_role")
PRELOADING_SETTINGS = ("session_preload_libraries", "local_preload_libraries")

# Who -> name, whether in this database only, "setting=value". An own setting wins over everybody's.
SETTINGS_QUERY = """
SELECT coalesce(r.rolname, 'everybody'), s.setdatabase <> 0, u.setting
FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) AS u (setting)
WHERE (s.setrole = 0 OR r.rolname = current_user OR r.rolname ~ '^r1_(owner|app|staff|maint|backup)$')
  AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
ORDER BY 1, 2, 3"""

# What the service itself may CREATE, and what it and r1_staff are members of, is rls_audit.py's.
_PRIVILEGES = """
SELECT r.rolname::text,
       r.rolname <> current_user AND has_database_privilege(r.oid, current_database(), 'CREATE'),
       has_database_privilege(r.oid, current_database(), 'TEMPORARY'),
       r.rolname <> current_user AND has_schema_privilege(r.oid, 'public', 'CREATE')
FROM pg_roles r WHERE r.rolname IN (current_user, 'r1_app', 'r1_staff', 'r1_maint', 'r1_backup') ORDER BY 1"""

_SCHEMA_CREATORS = """
SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
FROM pg_namespace n, LATERAL aclexplode(n.nspacl) a
WHERE n.nspname = 'public' AND a.privilege_type = 'CREATE' AND a.grantee NOT IN (n.nspowner, 10)
ORDER BY 1"""

# A member with ADMIN alone, as PostgreSQL 16 makes of whoever created a role, has none of the role's rights.
_MEMBERSHIPS = """
SELECT m.member::regrole::text, m.roleid::regrole::text
FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles r ON r.oid = m.member
WHERE r.rolname NOT IN (current_user, 'r1_staff')
  AND (g.rolname ~ '^r1_(owner|app|staff|maint|backup)$' OR r.rolname ~ '^r1_(owner|app|staff|maint|backup)$')
  AND (coalesce((to_jsonb(m) ->> 'set_option')::boolean, true)
       OR coalesce((to_jsonb(m) ->> 'inherit_option')::boolean, true))
ORDER BY 1, 2"""

_LARGE_OBJECTS = """
SELECT DISTINCT p.proname::text FROM pg_proc p
WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname ~ '^lo(_|read$|write$)'
  AND has_function_privilege(p.oid, 'EXECUTE') ORDER BY 1"""

_REMEDY = "run deploy/postgres/roles.sql"


def verify_roles(conn: Connection) -> list[str]:
    """Every way in which our roles differ from roles.sql, as sentences; [] when there is none.

    `conn` is a Django or psycopg connection of the role to be judged, which must be the service's.
    """
    with conn.cursor() as cursor:

        def rows(sql: str) -> list[Row]:
            cursor.execute(sql)
            return cursor.fetchall()

        return [
            *_setting_findings(rows(SETTINGS_QUERY), service=rows("SELECT current_user")[0][0]),
            *_privilege_findings(rows(_PRIVILEGES)),
            *(
                f"{who} may CREATE in the schema public, which is {OWNER}'s alone"
                for (who,) in rows(_SCHEMA_CREATORS)
                if who not in OUR_ROLES
            ),
            *_membership_findings(rows(_MEMBERSHIPS)),
            *_large_object_findings(rows(_LARGE_OBJECTS)),
        ]


def stopping_setting_findings(settings: list[Row], service: str) -> Iterator[str]:
    """Of SETTINGS_QUERY's rows, those of `service` or everybody that would change whose rows its statements mean."""
    expected = ROLE_SETTINGS.get(service, {})
    for who, _, setting in settings:
        name, _, value = setting.partition("=")
        if who not in (service, "everybody") or not _is_among(name, STOPPING_SETTINGS):
            continue
        if name.startswith("app."):
            yield f"the service's sessions start with {name} set: nobody must be bound by default"
        elif who == service and expected.get(name) != value:
            yield f"the service's sessions start with {name} = {value}: {_REMEDY}"
        elif who == "everybody" and name not in expected:
            yield f"everybody's sessions start with {name} = {value}"


def _setting_findings(settings: list[Row], service: str) -> Iterator[str]:
    """The rest; `service`'s own stopping settings apart, which have been said."""
    of_role: dict[str, dict[str, str]] = {role: {} for role in ROLE_SETTINGS}
    for who, in_database, setting in settings:
        name, _, value = setting.partition("=")
        stops = _is_among(name, STOPPING_SETTINGS)
        where = f"{who} in this database" if in_database else who
        if who == "everybody":
            is_strange = name in PRELOADING_SETTINGS
        elif in_database or name not in ROLE_SETTINGS.get(who, {}):
            is_strange = not (stops and who == service)
        else:
            of_role[who][name], is_strange = value, False
        if is_strange:
            yield f"{where} has the setting {name} = {value}, which roles.sql does not make"
    for role, expected in ROLE_SETTINGS.items():
        for name, value in expected.items():
            if (found := of_role[role].get(name)) is None:
                yield f"{role} lacks the setting {name} = {value}: {_REMEDY}"
            elif found != value and not (role == service and name in STOPPING_SETTINGS):
                yield f"{role} has the setting {name} = {found} instead of {value}: {_REMEDY}"


def _is_among(name: str, settings: tuple[str, ...]) -> bool:
    return name in settings or name.startswith("app.")


def _privilege_findings(privileges: list[Row]) -> Iterator[str]:
    for role, creates, temporary, creates_in_schema in privileges:
        if creates:
            yield f"{role} may CREATE in the database: {_REMEDY}"
        if temporary:
            yield f"{role} may make TEMPORARY tables in the database: {_REMEDY}"
        if creates_in_schema:
            yield f"{role} may CREATE in the schema public: {_REMEDY}"


def _membership_findings(memberships: list[Row]) -> Iterator[str]:
    for member, role in memberships:
        if (member, role) not in MEMBERSHIPS:
            yield f"{member} is a member of {role}: it may act as that role"


def _large_object_findings(functions: list[Row]) -> Iterator[str]:
    if names := [name for (name,) in functions]:
        listed = ", ".join(names)
        yield f"the service may use large objects, which no policy guards ({listed}): {_REMEDY} as a superuser"
