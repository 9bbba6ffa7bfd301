-- The one question every policy asks: whose rows may this transaction touch?
-- plpgsql because it must raise: a missing setting reads as NULL, and after an earlier
-- transaction-local set_config on the same connection as '', either of which would turn a
-- forgotten bind into silently zero rows. STABLE, never IMMUTABLE: an immutable one would be
-- folded into a cached plan together with some other tenant's hash.
CREATE FUNCTION memory_current_user_hash() RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
AS $guard$
DECLARE
    bound text := pg_catalog.current_setting('app.user_hash', true);
BEGIN
    IF bound IS NULL OR bound OPERATOR(pg_catalog.!~) '^[0-9a-f]{64}$' THEN
        RAISE EXCEPTION 'no tenant is bound to this transaction'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN bound;
END
$guard$;

REVOKE ALL ON FUNCTION memory_current_user_hash() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION memory_current_user_hash() TO r1_app;
