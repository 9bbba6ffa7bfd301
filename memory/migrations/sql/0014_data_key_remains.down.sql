DO $maintain$
BEGIN
    IF current_setting('server_version_num')::integer >= 170000 THEN
        REVOKE MAINTAIN ON memory_data_keys FROM r1_app, r1_maint;
    END IF;
END
$maintain$;

ALTER TABLE memory_data_keys ALTER COLUMN sealed_key SET STATISTICS -1;
