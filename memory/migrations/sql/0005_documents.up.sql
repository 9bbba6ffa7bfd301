-- What belongs to a document as a whole. Chunks hold what is found by search. In clear by design: doc_id, source, thread_id,
-- times and sizes. A speaker is a blind id, an HMAC under the user's search key, and a sealed name.
CREATE TABLE memory_documents (
    user_hash       text COLLATE "C" NOT NULL,
    doc_id          text COLLATE "C" NOT NULL,
    source          text COLLATE "C" NOT NULL,
    thread_id       text COLLATE "C",
    sequence        integer NOT NULL DEFAULT 0,
    chunk_count     integer NOT NULL,
    char_count      integer NOT NULL,
    generation      integer NOT NULL,
    speaker         integer,
    speaker_cipher  bytea,
    meta_cipher     bytea NOT NULL,
    content_mac     bytea NOT NULL,
    created_at      timestamptz NOT NULL,
    expires_at      timestamptz,
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_hash, doc_id),
    CONSTRAINT memory_documents_user_hash_hex CHECK (user_hash ~ '^[0-9a-f]{64}$'),
    CONSTRAINT memory_documents_doc_id_length CHECK (char_length(doc_id) BETWEEN 1 AND 256),
    CONSTRAINT memory_documents_sequence_not_negative CHECK (sequence >= 0),
    CONSTRAINT memory_documents_speaker_whole CHECK ((speaker IS NULL) = (speaker_cipher IS NULL)),
    CONSTRAINT memory_documents_content_mac_length CHECK (octet_length(content_mac) = 32)
);
ALTER TABLE memory_documents
    ALTER COLUMN meta_cipher SET STORAGE EXTERNAL,
    ALTER COLUMN speaker_cipher SET STORAGE EXTERNAL;

-- Newest first, page by page; the same of one thread. A listing by source reads along the first and leaves out what is
-- from elsewhere: a page costs as much as the distance between its first and its last row.
CREATE INDEX memory_documents_by_time ON memory_documents (user_hash, created_at, doc_id);
CREATE INDEX memory_documents_by_thread ON memory_documents (user_hash, thread_id, created_at, doc_id)
    WHERE thread_id IS NOT NULL;
-- What has expired is deleted from the oldest on.
CREATE INDEX memory_documents_by_expiry ON memory_documents (user_hash, expires_at) WHERE expires_at IS NOT NULL;

-- What a document was made from: one row a source, so that what a document that goes takes with it is found by an
-- index.
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
