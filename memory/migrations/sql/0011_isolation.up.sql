-- Row-level security, forced on every tenant table, the owner included. Four policies each, one a
-- command, for r1_app alone. The sub-select makes the guard an InitPlan: once a statement, not
-- once a row, and no flip of the setting in the middle of one. Partitions get FORCE and no policy
-- and no grant: only the parent is a way in.
DO $isolation$
DECLARE
    tenant_table text;
    partition_name text;
BEGIN
    FOREACH tenant_table IN ARRAY ARRAY[
        'memory_tenants', 'memory_data_keys', 'memory_search_keys', 'memory_documents',
        'memory_document_sources', 'memory_chunks', 'memory_lexical_chunks', 'memory_lexical_segments',
        'memory_lexical_blocks', 'memory_idempotency', 'memory_rate_buckets', 'memory_erasures'
    ] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('CREATE POLICY memory_tenant_isolation_select ON %I FOR SELECT TO r1_app
            USING (user_hash = (SELECT memory_current_user_hash()))', tenant_table);
        EXECUTE format('CREATE POLICY memory_tenant_isolation_insert ON %I FOR INSERT TO r1_app
            WITH CHECK (user_hash = (SELECT memory_current_user_hash()))', tenant_table);
        EXECUTE format('CREATE POLICY memory_tenant_isolation_update ON %I FOR UPDATE TO r1_app
            USING (user_hash = (SELECT memory_current_user_hash()))
            WITH CHECK (user_hash = (SELECT memory_current_user_hash()))', tenant_table);
        EXECUTE format('CREATE POLICY memory_tenant_isolation_delete ON %I FOR DELETE TO r1_app
            USING (user_hash = (SELECT memory_current_user_hash()))', tenant_table);
        EXECUTE format('REVOKE ALL ON %I FROM PUBLIC', tenant_table);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO r1_app, r1_maint', tenant_table);
        EXECUTE format('GRANT SELECT ON %I TO r1_backup', tenant_table);
        FOR partition_name IN
            SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = tenant_table::regclass
        LOOP
            EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', partition_name);
            EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', partition_name);
            EXECUTE format('REVOKE ALL ON %I FROM PUBLIC', partition_name);
        END LOOP;
    END LOOP;
END
$isolation$;

-- Whoever takes the service over must not be able to make an erasure unsaid: the service adds lines to the
-- ledger, and nobody but the owner changes one. r1_maint may still delete those of users that never were.
REVOKE UPDATE, DELETE ON memory_erasures FROM r1_app;
REVOKE UPDATE ON memory_erasures FROM r1_maint;

-- A deleted key stays in the table's file until a VACUUM. From PostgreSQL 17 on that can be granted; before, it is the
-- owner's alone, and `manage.py prune_expired` does it.
DO $maintain$
BEGIN
    IF current_setting('server_version_num')::integer >= 170000 THEN
        GRANT MAINTAIN ON memory_data_keys, memory_search_keys TO r1_app, r1_maint;
    END IF;
END
$maintain$;
