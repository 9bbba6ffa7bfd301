-- The five roles of the service and what they may do in the database this runs in.
--
-- Run it as a superuser, or as a managed service's administrator, connected to the target database:
--     psql -v ON_ERROR_STOP=1 -d r1 -f deploy/postgres/roles.sql
-- It may be run again at any time: it only changes what differs. PostgreSQL 15 to 18.
--
-- No passwords here, so that none is ever logged or kept in a shell's history. Set them after the first
-- run with psql's `\password r1_app` (and so on), which sends only a SCRAM verifier.

BEGIN;

CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA public;

-- BYPASSRLS: r1_maint lists tenants and moves rows when the tenant key changes; r1_backup must dump all
-- rows. Attributes are altered one by one and only where they differ, because an administrator who is
-- not a superuser may not even name some of them.
DO $$
DECLARE
    wanted record;
    present pg_roles;
BEGIN
    FOR wanted IN
        SELECT * FROM (VALUES
            ('r1_owner', false), ('r1_app', false), ('r1_staff', false), ('r1_maint', true), ('r1_backup', true)
        ) AS roles (name, bypasses_rls)
    LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted.name) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOINHERIT %s', wanted.name,
                           CASE WHEN wanted.bypasses_rls THEN 'BYPASSRLS' ELSE '' END);
        END IF;
        SELECT * INTO present FROM pg_roles WHERE rolname = wanted.name;
        IF NOT present.rolcanlogin THEN EXECUTE format('ALTER ROLE %I LOGIN', wanted.name); END IF;
        IF present.rolinherit THEN EXECUTE format('ALTER ROLE %I NOINHERIT', wanted.name); END IF;
        IF present.rolsuper THEN EXECUTE format('ALTER ROLE %I NOSUPERUSER', wanted.name); END IF;
        IF present.rolcreatedb THEN EXECUTE format('ALTER ROLE %I NOCREATEDB', wanted.name); END IF;
        IF present.rolcreaterole THEN EXECUTE format('ALTER ROLE %I NOCREATEROLE', wanted.name); END IF;
        IF present.rolreplication THEN EXECUTE format('ALTER ROLE %I NOREPLICATION', wanted.name); END IF;
        IF present.rolbypassrls AND NOT wanted.bypasses_rls THEN
            EXECUTE format('ALTER ROLE %I NOBYPASSRLS', wanted.name);
        ELSIF wanted.bypasses_rls AND NOT present.rolbypassrls THEN
            EXECUTE format('ALTER ROLE %I BYPASSRLS', wanted.name);
        END IF;
    END LOOP;
END
$$;

-- The roles that serve requests are members of nothing: a membership is a way round row-level security.
DO $$
DECLARE
    membership record;
BEGIN
    FOR membership IN
        SELECT granted.rolname AS granted, member.rolname AS member, grantor.rolname AS grantor
        FROM pg_auth_members
        JOIN pg_roles AS granted ON granted.oid = pg_auth_members.roleid
        JOIN pg_roles AS member ON member.oid = pg_auth_members.member
        LEFT JOIN pg_roles AS grantor ON grantor.oid = pg_auth_members.grantor
        WHERE member.rolname IN ('r1_app', 'r1_staff')
    LOOP
        IF current_setting('server_version_num')::integer >= 160000 THEN
            EXECUTE format('REVOKE %I FROM %I GRANTED BY %I CASCADE',
                           membership.granted, membership.member, membership.grantor);
        ELSE
            EXECUTE format('REVOKE %I FROM %I CASCADE', membership.granted, membership.member);
        END IF;
    END LOOP;
END
$$;

-- r1_owner hands the staff views over to r1_backup, so that they see every tenant's metadata; for that it
-- must be able to become r1_backup. This is no escalation: the owner of a table can lift its row-level
-- security anyway, and BYPASSRLS is an attribute, which no membership inherits.
DO $$
BEGIN
    IF current_setting('server_version_num')::integer >= 160000 THEN
        GRANT r1_backup TO r1_owner WITH INHERIT FALSE, SET TRUE;
    ELSIF NOT pg_has_role('r1_owner', 'r1_backup', 'MEMBER') THEN
        GRANT r1_backup TO r1_owner;
    END IF;
END
$$;

DO $$
DECLARE
    name text := current_database();
BEGIN
    EXECUTE format('REVOKE CONNECT, TEMPORARY ON DATABASE %I FROM PUBLIC', name);
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO r1_owner, r1_app, r1_staff, r1_maint, r1_backup', name);
    EXECUTE format('REVOKE CREATE, TEMPORARY ON DATABASE %I FROM r1_app, r1_staff, r1_maint, r1_backup', name);
    EXECUTE format('GRANT CREATE, TEMPORARY ON DATABASE %I TO r1_owner', name);
END
$$;

-- r1_owner may pass CREATE on, for the length of one migration: PostgreSQL asks it of the role that a view
-- is handed to. At rest r1_owner alone has it.
REVOKE ALL ON SCHEMA public FROM PUBLIC;
REVOKE CREATE ON SCHEMA public FROM r1_app, r1_staff, r1_maint, r1_backup;
GRANT USAGE ON SCHEMA public TO r1_owner, r1_app, r1_staff, r1_maint, r1_backup;
GRANT CREATE ON SCHEMA public TO r1_owner WITH GRANT OPTION;

-- Large objects stand outside every policy, and anybody may make them by default. Only a superuser can take that back;
-- elsewhere `manage.py verify_rls` goes on naming them.
DO $$
DECLARE
    large_object regprocedure;
BEGIN
    FOR large_object IN
        SELECT p.oid FROM pg_proc AS p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
        WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname ~ '^lo(_|read$|write$)'
          AND a.grantee = 0 AND pg_has_role(current_user, p.proowner, 'USAGE')
    LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', large_object);
    END LOOP;
END
$$;

-- Only the owner of future tables can say what others get on them; an administrator who is not a
-- superuser becomes one of r1_owner's members for the moment.
DO $$
DECLARE
    joins boolean := NOT pg_has_role(current_user, 'r1_owner', 'USAGE');
BEGIN
    IF joins THEN
        EXECUTE format('GRANT r1_owner TO %I', current_user);
    END IF;
    ALTER DEFAULT PRIVILEGES FOR ROLE r1_owner IN SCHEMA public GRANT SELECT ON TABLES TO r1_backup;
    ALTER DEFAULT PRIVILEGES FOR ROLE r1_owner IN SCHEMA public GRANT SELECT ON SEQUENCES TO r1_backup;
    ALTER DEFAULT PRIVILEGES FOR ROLE r1_owner IN SCHEMA public
        GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO r1_maint;
    ALTER DEFAULT PRIVILEGES FOR ROLE r1_owner IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO r1_maint;
    -- As the migrations do, for a database that came from a server before PostgreSQL 17.
    IF current_setting('server_version_num')::integer >= 170000
       AND to_regclass('public.memory_search_keys') IS NOT NULL THEN
        GRANT MAINTAIN ON public.memory_data_keys, public.memory_search_keys TO r1_app, r1_maint;
    END IF;
    IF joins THEN
        EXECUTE format('REVOKE r1_owner FROM %I', current_user);
    END IF;
END
$$;

-- Role settings and not connection options: connection poolers drop the latter.
ALTER ROLE r1_owner SET search_path = public;

ALTER ROLE r1_app SET search_path = public;
ALTER ROLE r1_app SET row_security = on;
ALTER ROLE r1_app SET statement_timeout = '5s';
ALTER ROLE r1_app SET lock_timeout = '1500ms';
ALTER ROLE r1_app SET idle_in_transaction_session_timeout = '10s';
-- A generic plan cannot prove that a tenant's own partial index applies; it scans instead.
ALTER ROLE r1_app SET plan_cache_mode = force_custom_plan;
ALTER ROLE r1_app SET enable_seqscan = off;
ALTER ROLE r1_app SET max_parallel_workers_per_gather = 0;

ALTER ROLE r1_staff SET search_path = public;
ALTER ROLE r1_staff SET row_security = on;
ALTER ROLE r1_staff SET statement_timeout = '5s';
ALTER ROLE r1_staff SET lock_timeout = '1500ms';
ALTER ROLE r1_staff SET idle_in_transaction_session_timeout = '10s';

ALTER ROLE r1_maint SET search_path = public;

ALTER ROLE r1_backup SET search_path = public;
ALTER ROLE r1_backup SET default_transaction_read_only = on;

COMMIT;
