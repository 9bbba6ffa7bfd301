ALTER TABLE memory_lexical_segments DROP COLUMN memtable_from;
ALTER TABLE memory_tenants DROP COLUMN indexed_space, DROP COLUMN indexed_seals;
-- Nobody asks for them any more, and every write would go on paying for them: what a killed rebuild left, too.
DO $own$
DECLARE
    own_index regclass;
BEGIN
    FOR own_index IN
        SELECT i.indexrelid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        WHERE c.relnamespace = 'public'::regnamespace AND c.relname ~ '^memory_own_'
    LOOP
        EXECUTE format('DROP INDEX %s', own_index);
    END LOOP;
END
$own$;
