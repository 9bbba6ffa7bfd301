-- What a document was made from: one row a source, so that what a document that goes takes with it is found by an
-- index. Before, every replace unnested the arrays of all the user's summaries.
CREATE TABLE memory_document_sources (
    position       integer NOT NULL,
    user_hash      text COLLATE "C" NOT NULL,
    doc_id         text COLLATE "C" NOT NULL,
    source_doc_id  text COLLATE "C" NOT NULL,
    PRIMARY KEY (user_hash, doc_id, source_doc_id),
    CONSTRAINT memory_document_sources_user_hash_hex CHECK (user_hash ~ '^[0-9a-f]{64}$'),
    CONSTRAINT memory_document_sources_position_counts CHECK (position >= 1)
);
CREATE INDEX memory_document_sources_by_source ON memory_document_sources (user_hash, source_doc_id, doc_id);

-- Row-level security is forced on the owner too, who would see no rows and move none. So it is lifted for the move,
-- in this transaction, whose lock keeps everybody else out; should it still apply, that is an error.
ALTER TABLE memory_documents NO FORCE ROW LEVEL SECURITY;
SET LOCAL row_security = off;
INSERT INTO memory_document_sources (user_hash, doc_id, source_doc_id, position)
SELECT user_hash, doc_id, source_doc_id, position
FROM memory_documents, unnest(derived_from) WITH ORDINALITY AS sources (source_doc_id, position);
DO $moved$
BEGIN
    IF (SELECT coalesce(sum(cardinality(derived_from)), 0) FROM memory_documents)
        <> (SELECT count(*) FROM memory_document_sources)
    THEN
        RAISE EXCEPTION 'not every source of a document was moved';
    END IF;
END
$moved$;
SET LOCAL row_security = on;
ALTER TABLE memory_documents FORCE ROW LEVEL SECURITY;

-- As in 0005: forced, and four policies for r1_app.
DO $isolation$
DECLARE
    tenant_table text;
BEGIN
    FOREACH tenant_table IN ARRAY ARRAY['memory_document_sources'] LOOP
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

-- The staff's view counts the rows; it is r1_backup's, as in 0007.
SET LOCAL ROLE r1_backup;
DROP VIEW memory_documents_meta;
RESET ROLE;
DROP INDEX memory_documents_derived;
ALTER TABLE memory_documents DROP COLUMN derived_from;
CREATE VIEW memory_documents_meta AS
    SELECT user_hash, doc_id, source, thread_id, chunk_count, char_count, generation,
           octet_length(meta_cipher) AS meta_cipher_bytes,
           (SELECT count(*)::integer FROM memory_document_sources s
            WHERE s.user_hash = d.user_hash AND s.doc_id = d.doc_id) AS derived_from_count,
           created_at, updated_at
    FROM memory_documents d;
GRANT CREATE ON SCHEMA public TO r1_backup;
REVOKE ALL ON memory_documents_meta FROM PUBLIC, r1_maint;
GRANT SELECT ON memory_documents_meta TO r1_staff;
ALTER VIEW memory_documents_meta OWNER TO r1_backup;
REVOKE CREATE ON SCHEMA public FROM r1_backup;
