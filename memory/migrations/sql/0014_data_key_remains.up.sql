-- ANALYZE keeps samples of a column's values, sealed keys of users erased since among them. The change of type, to the
-- same, drops those that there are.
ALTER TABLE memory_data_keys ALTER COLUMN sealed_key TYPE bytea, ALTER COLUMN sealed_key SET STATISTICS 0;

-- A deleted row stays in the table's file until a VACUUM. From PostgreSQL 17 on that can be granted; before, it is the
-- owner's alone, and `manage.py prune_expired` does it.
DO $maintain$
BEGIN
    IF current_setting('server_version_num')::integer >= 170000 THEN
        GRANT MAINTAIN ON memory_data_keys TO r1_app, r1_maint;
    END IF;
END
$maintain$;
