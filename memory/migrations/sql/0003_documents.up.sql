-- What belongs to a document as a whole. Chunks hold what is found by search.
CREATE TABLE memory_documents (
    user_hash     text COLLATE "C" NOT NULL,
    doc_id        text COLLATE "C" NOT NULL,
    source        text NOT NULL,
    thread_id     text,
    chunk_count   integer NOT NULL,
    char_count    integer NOT NULL,
    generation    integer NOT NULL,
    meta_cipher   bytea NOT NULL,
    content_mac   bytea NOT NULL,
    derived_from  text[] NOT NULL DEFAULT '{}',
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_hash, doc_id),
    CONSTRAINT memory_documents_user_hash_hex CHECK (user_hash ~ '^[0-9a-f]{64}$'),
    CONSTRAINT memory_documents_doc_id_length CHECK (char_length(doc_id) BETWEEN 1 AND 256),
    CONSTRAINT memory_documents_content_mac_length CHECK (octet_length(content_mac) = 32)
);
ALTER TABLE memory_documents ALTER COLUMN meta_cipher SET STORAGE EXTERNAL;
