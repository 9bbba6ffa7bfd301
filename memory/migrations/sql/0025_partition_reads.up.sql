-- A search names the partition of its user, so that its plans can be kept (memory/isolation/partitions.py). Each
-- partition gets the policy and the grant for reading that its table has; everything else goes through the table.
DO $partitions$
DECLARE
    partition_name text;
BEGIN
    FOR partition_name IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent IN ('memory_chunks'::regclass, 'memory_lexical_chunks'::regclass, 'memory_lexical_blocks'::regclass)
    LOOP
        EXECUTE format('CREATE POLICY memory_tenant_isolation_select ON %I FOR SELECT TO r1_app
            USING (user_hash = (SELECT memory_current_user_hash()))', partition_name);
        EXECUTE format('GRANT SELECT ON %I TO r1_app', partition_name);
    END LOOP;
END
$partitions$;
