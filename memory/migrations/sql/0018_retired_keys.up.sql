-- A retired master key's bytes are removed everywhere, so what is wrapped under it is lost. The service and its commands
-- ask before they wrap; a key that was wrapped just before the retirement and is written after it, only the database
-- can refuse. VOLATILE, so that it sees what was committed while its statement waited. Others than these two roles may:
-- a restore puts keys back as they were.
CREATE FUNCTION memory_refuse_retired_master_key() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY INVOKER
AS $retired$
BEGIN
    IF EXISTS (
        SELECT FROM public.memory_master_keys m
        WHERE m.key_id OPERATOR(pg_catalog.=) NEW.key_id AND m.retired_at IS NOT NULL
    ) THEN
        RAISE EXCEPTION 'the master key of this wrapped key was retired'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN NEW;
END
$retired$;

REVOKE ALL ON FUNCTION memory_refuse_retired_master_key() FROM PUBLIC;

CREATE TRIGGER memory_data_keys_not_retired BEFORE INSERT OR UPDATE OF key_id ON memory_data_keys
    FOR EACH ROW WHEN (current_user IN ('r1_app', 'r1_maint')) EXECUTE FUNCTION memory_refuse_retired_master_key();
CREATE TRIGGER memory_search_keys_not_retired BEFORE INSERT OR UPDATE OF key_id ON memory_search_keys
    FOR EACH ROW WHEN (current_user IN ('r1_app', 'r1_maint')) EXECUTE FUNCTION memory_refuse_retired_master_key();
