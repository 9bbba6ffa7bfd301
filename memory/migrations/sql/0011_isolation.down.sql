-- A table's policies go before its grants, for the lock that they take: a vacuum that held the table would wait for
-- the changed grant, and we for the vacuum.
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
        EXECUTE format('DROP POLICY memory_tenant_isolation_select ON %I', tenant_table);
        EXECUTE format('DROP POLICY memory_tenant_isolation_insert ON %I', tenant_table);
        EXECUTE format('DROP POLICY memory_tenant_isolation_update ON %I', tenant_table);
        EXECUTE format('DROP POLICY memory_tenant_isolation_delete ON %I', tenant_table);
        EXECUTE format('ALTER TABLE %I NO FORCE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('ALTER TABLE %I DISABLE ROW LEVEL SECURITY', tenant_table);
        -- The service's way in. r1_maint and r1_backup bypass row-level security as it is: they keep the rights that
        -- a new table gives them by default.
        EXECUTE format('REVOKE ALL ON %I FROM r1_app', tenant_table);
        FOR partition_name IN
            SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = tenant_table::regclass
        LOOP
            EXECUTE format('ALTER TABLE %I NO FORCE ROW LEVEL SECURITY', partition_name);
            EXECUTE format('ALTER TABLE %I DISABLE ROW LEVEL SECURITY', partition_name);
        END LOOP;
    END LOOP;
END
$isolation$;
DO $maintain$
BEGIN
    IF current_setting('server_version_num')::integer >= 170000 THEN
        REVOKE MAINTAIN ON memory_data_keys, memory_search_keys FROM r1_app, r1_maint;
    END IF;
END
$maintain$;
GRANT UPDATE ON memory_erasures TO r1_maint;
