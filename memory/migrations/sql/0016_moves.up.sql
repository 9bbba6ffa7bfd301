-- Another edition of a space is the same model, chunking and protection again: whoever is moved into it gets another search
-- key, and nothing else changes.
ALTER TABLE memory_spaces ADD COLUMN edition smallint NOT NULL DEFAULT 1;
ALTER TABLE memory_spaces DROP CONSTRAINT memory_spaces_fingerprint_key;
ALTER TABLE memory_spaces ADD CONSTRAINT memory_spaces_fingerprint_edition UNIQUE (fingerprint, edition);

-- A chunk keeps its id in another space, where it is the same slice of its document. This builds an index anew, under a lock
-- that keeps readers out: about a second for each million chunks.
ALTER TABLE memory_chunks DROP CONSTRAINT memory_chunks_pkey;
ALTER TABLE memory_chunks ADD CONSTRAINT memory_chunks_pkey PRIMARY KEY (user_hash, id, space);

-- One row a user who is being moved: from where he is to `target_hash` and `space`. `target_hash` is his own unless his name
-- changes. `copying`: he is served from where he was; `removing`: from where he goes, and what he left behind is removed.
CREATE TABLE memory_moves (
    started_at   timestamptz NOT NULL DEFAULT now(),
    switched_at  timestamptz,
    from_space   smallint NOT NULL,
    space        smallint NOT NULL,
    user_hash    text COLLATE "C" NOT NULL PRIMARY KEY,
    target_hash  text COLLATE "C" NOT NULL,
    state        text NOT NULL DEFAULT 'copying',
    CONSTRAINT memory_moves_user_hash_hex CHECK (user_hash ~ '^[0-9a-f]{64}$'),
    CONSTRAINT memory_moves_target_hash_hex CHECK (target_hash ~ '^[0-9a-f]{64}$'),
    CONSTRAINT memory_moves_state_known CHECK (state IN ('copying', 'removing'))
);

-- Which version of each document has been copied, under the name that the copy has: what changed since, or went, is told
-- by comparing. `chunk_count` is that of the copy.
CREATE TABLE memory_moved_documents (
    chunk_count  integer NOT NULL,
    user_hash    text COLLATE "C" NOT NULL,
    doc_id       text COLLATE "C" NOT NULL,
    version      text COLLATE "C" NOT NULL,
    PRIMARY KEY (user_hash, doc_id),
    CONSTRAINT memory_moved_documents_user_hash_hex CHECK (user_hash ~ '^[0-9a-f]{64}$')
);

-- The keys that users were and are named by, each by a fingerprint that gives nothing of it away. No tenant data, no key.
CREATE TABLE memory_hmac_keys (
    fingerprint  text NOT NULL PRIMARY KEY,
    named_since  timestamptz,
    left_at      timestamptz,
    retired_at   timestamptz
);
REVOKE ALL ON memory_hmac_keys FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON memory_hmac_keys TO r1_maint;
GRANT SELECT ON memory_hmac_keys TO r1_backup;

DO $isolation$
DECLARE
    tenant_table text;
BEGIN
    FOREACH tenant_table IN ARRAY ARRAY['memory_moves', 'memory_moved_documents'] LOOP
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
    END LOOP;
END
$isolation$;
