-- Who changed what: appended to, never changed, and each line sealed to the one before it by its hash. No tenant data: no
-- user id, no content. Whoever can write the table by hand can forge its end, and nothing before a line whose hash is
-- kept elsewhere.
CREATE TABLE memory_audit (
    id             bigint NOT NULL PRIMARY KEY,
    at             timestamptz NOT NULL,
    actor          text NOT NULL,
    action         text NOT NULL,
    subject        text NOT NULL,
    detail         jsonb NOT NULL,
    previous_hash  bytea NOT NULL,
    hash           bytea NOT NULL,
    CONSTRAINT memory_audit_actor CHECK (length(actor) BETWEEN 1 AND 150),
    CONSTRAINT memory_audit_action CHECK (action ~ '^[a-z][a-z_.]{0,63}$'),
    CONSTRAINT memory_audit_subject CHECK (length(subject) <= 200)
);

-- What a line's hash is over; an array, so that no two lines have one text.
CREATE FUNCTION memory_audit_hash(previous bytea, id bigint, at timestamptz, actor text, action text, subject text,
                                  detail jsonb) RETURNS bytea
LANGUAGE sql STABLE SECURITY INVOKER SET search_path = pg_catalog, pg_temp
AS $hash$
    SELECT sha256(convert_to(jsonb_build_array(
        encode(previous, 'hex'), id, (extract(epoch FROM at) * 1000000)::bigint, actor, action, subject, detail)::text,
        'UTF8'))
$hash$;

-- Whoever inserts says who did what; number, time and hashes are made here. One writer at a time, to its commit, so that
-- there is one chain; the lock's number is this table's alone.
CREATE FUNCTION memory_audit_chain() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY INVOKER SET search_path = pg_catalog, pg_temp
AS $chain$
DECLARE
    last record;
BEGIN
    PERFORM pg_advisory_xact_lock(7201300023);
    SELECT a.id, a.hash INTO last FROM public.memory_audit a ORDER BY a.id DESC LIMIT 1;
    NEW.id := coalesce(last.id, 0) + 1;
    NEW.at := clock_timestamp();
    NEW.previous_hash := coalesce(last.hash, ''::bytea);
    NEW.hash := public.memory_audit_hash(
        NEW.previous_hash, NEW.id, NEW.at, NEW.actor, NEW.action, NEW.subject, NEW.detail);
    RETURN NEW;
END
$chain$;

CREATE FUNCTION memory_audit_refuse() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY INVOKER SET search_path = pg_catalog, pg_temp
AS $refuse$
BEGIN
    RAISE EXCEPTION 'the audit log is appended to, and never changed' USING ERRCODE = 'object_not_in_prerequisite_state';
END
$refuse$;

CREATE TRIGGER memory_audit_is_chained BEFORE INSERT ON memory_audit
    FOR EACH ROW EXECUTE FUNCTION memory_audit_chain();
CREATE TRIGGER memory_audit_is_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON memory_audit
    FOR EACH STATEMENT EXECUTE FUNCTION memory_audit_refuse();

REVOKE ALL ON memory_audit FROM PUBLIC, r1_app, r1_staff, r1_maint, r1_backup;
REVOKE ALL ON FUNCTION memory_audit_hash(bytea, bigint, timestamptz, text, text, text, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION memory_audit_chain() FROM PUBLIC;
REVOKE ALL ON FUNCTION memory_audit_refuse() FROM PUBLIC;
GRANT SELECT ON memory_audit TO r1_maint, r1_staff, r1_backup;
GRANT INSERT (actor, action, subject, detail) ON memory_audit TO r1_maint, r1_staff;
GRANT EXECUTE ON FUNCTION memory_audit_hash(bytea, bigint, timestamptz, text, text, text, jsonb) TO r1_maint, r1_staff;
