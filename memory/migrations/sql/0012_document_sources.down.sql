SET LOCAL ROLE r1_backup;
DROP VIEW memory_documents_meta;
RESET ROLE;
ALTER TABLE memory_documents ADD COLUMN derived_from text[] NOT NULL DEFAULT '{}';

-- Back into arrays, all or none; see the way up for why row-level security is lifted meanwhile.
ALTER TABLE memory_documents NO FORCE ROW LEVEL SECURITY;
ALTER TABLE memory_document_sources NO FORCE ROW LEVEL SECURITY;
SET LOCAL row_security = off;
UPDATE memory_documents d SET derived_from = s.ids
FROM (
    SELECT user_hash, doc_id, array_agg(source_doc_id ORDER BY position) AS ids
    FROM memory_document_sources GROUP BY user_hash, doc_id
) s
WHERE d.user_hash = s.user_hash AND d.doc_id = s.doc_id;
DO $moved$
BEGIN
    IF (SELECT coalesce(sum(cardinality(derived_from)), 0) FROM memory_documents)
        <> (SELECT count(*) FROM memory_document_sources)
    THEN
        RAISE EXCEPTION 'memory_document_sources names documents that are not there: their sources would be lost';
    END IF;
END
$moved$;
SET LOCAL row_security = on;
ALTER TABLE memory_documents FORCE ROW LEVEL SECURITY;
DROP TABLE memory_document_sources;

CREATE INDEX memory_documents_derived ON memory_documents (user_hash) WHERE cardinality(derived_from) > 0;
CREATE VIEW memory_documents_meta AS
    SELECT user_hash, doc_id, source, thread_id, chunk_count, char_count, generation,
           octet_length(meta_cipher) AS meta_cipher_bytes, cardinality(derived_from) AS derived_from_count,
           created_at, updated_at
    FROM memory_documents;
GRANT CREATE ON SCHEMA public TO r1_backup;
REVOKE ALL ON memory_documents_meta FROM PUBLIC, r1_maint;
GRANT SELECT ON memory_documents_meta TO r1_staff;
ALTER VIEW memory_documents_meta OWNER TO r1_backup;
REVOKE CREATE ON SCHEMA public FROM r1_backup;
