DO $partitions$
DECLARE
    partition_name text;
BEGIN
    FOR partition_name IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent IN ('memory_chunks'::regclass, 'memory_lexical_chunks'::regclass, 'memory_lexical_blocks'::regclass)
    LOOP
        -- The policy first, for the lock it takes: a vacuum that held the partition would wait for the changed grant,
        -- and we for the vacuum.
        EXECUTE format('DROP POLICY memory_tenant_isolation_select ON %I', partition_name);
        EXECUTE format('REVOKE SELECT ON %I FROM r1_app', partition_name);
    END LOOP;
END
$partitions$;
