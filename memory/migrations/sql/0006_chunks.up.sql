-- Vectors of every space, whatever its dimension, stand in one table (deploy/decisions/0013); a search compares those of one
-- space. Fixed-width columns first, then the hash, then what varies. The hot row is everything but the
-- three sealed columns: vectors PLAIN, so that an exact search reads no TOAST; sealed columns
-- EXTERNAL, since ciphertext does not compress; and a toast target just above the hot row, so that
-- they do move out of it. Storage and target are set on each partition, before any row.
CREATE TABLE memory_chunks (
    id              uuid NOT NULL,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL DEFAULT now(),
    quarantined_at  timestamptz,
    expires_at      timestamptz,
    chunk_index     integer NOT NULL,
    char_start      integer NOT NULL,
    char_end        integer NOT NULL,
    generation      integer NOT NULL,
    sequence        integer NOT NULL DEFAULT 0,
    speaker         integer,
    space           smallint NOT NULL,
    user_hash       text COLLATE "C" NOT NULL,
    doc_id          text COLLATE "C" NOT NULL,
    source          text COLLATE "C" NOT NULL,
    thread_id       text COLLATE "C",
    embedding       halfvec NOT NULL,
    text_cipher     bytea NOT NULL,
    meta_cipher     bytea NOT NULL,
    emb_cipher      bytea NOT NULL,
    PRIMARY KEY (user_hash, id),
    UNIQUE (user_hash, space, doc_id, chunk_index),
    CONSTRAINT memory_chunks_user_hash_hex CHECK (user_hash ~ '^[0-9a-f]{64}$'),
    CONSTRAINT memory_chunks_offsets CHECK (0 <= char_start AND char_start < char_end),
    CONSTRAINT memory_chunks_sequence_not_negative CHECK (sequence >= 0),
    CONSTRAINT memory_chunks_chunk_index_not_negative CHECK (chunk_index >= 0)
) PARTITION BY HASH (user_hash);

DO $partitions$
BEGIN
    FOR remainder IN 0..63 LOOP
        EXECUTE format(
            'CREATE TABLE memory_chunks_p%1$s PARTITION OF memory_chunks
                 FOR VALUES WITH (MODULUS 64, REMAINDER %2$s)
                 WITH (toast_tuple_target = 1152)',
            lpad(remainder::text, 2, '0'), remainder);
        EXECUTE format(
            'ALTER TABLE memory_chunks_p%1$s
                 ALTER COLUMN embedding SET STORAGE PLAIN,
                 ALTER COLUMN text_cipher SET STORAGE EXTERNAL,
                 ALTER COLUMN meta_cipher SET STORAGE EXTERNAL,
                 ALTER COLUMN emb_cipher SET STORAGE EXTERNAL',
            lpad(remainder::text, 2, '0'));
    END LOOP;
END
$partitions$;

-- Few rows are ever set aside; finding them must cost a search nothing.
CREATE INDEX memory_chunks_quarantined ON memory_chunks (user_hash) WHERE quarantined_at IS NOT NULL;

-- What a question can be narrowed to must not read all of a user's rows. A thread's chunks stand in its order, so that a
-- chunk's neighbours are found here too.
CREATE INDEX memory_chunks_by_thread
    ON memory_chunks (user_hash, thread_id, created_at, sequence, doc_id, chunk_index) WHERE thread_id IS NOT NULL;
CREATE INDEX memory_chunks_by_time ON memory_chunks (user_hash, created_at);
CREATE INDEX memory_chunks_by_source ON memory_chunks (user_hash, source);
