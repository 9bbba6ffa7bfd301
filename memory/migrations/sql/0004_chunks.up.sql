-- Fixed-width columns first, then the hash, then what varies. The hot row is everything but the
-- three sealed columns: vectors PLAIN, so that an exact search reads no TOAST; sealed columns
-- EXTERNAL, since ciphertext does not compress; and a toast target just above the hot row, so that
-- they do move out of it. Storage and target are set on each partition, before any row.
CREATE TABLE memory_chunks (
    id              uuid NOT NULL,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL DEFAULT now(),
    quarantined_at  timestamptz,
    chunk_index     integer NOT NULL,
    char_start      integer NOT NULL,
    char_end        integer NOT NULL,
    generation      integer NOT NULL,
    space           smallint NOT NULL,
    user_hash       text COLLATE "C" NOT NULL,
    doc_id          text COLLATE "C" NOT NULL,
    source          text NOT NULL,
    thread_id       text,
    embedding       halfvec(384) NOT NULL,
    text_cipher     bytea NOT NULL,
    meta_cipher     bytea NOT NULL,
    emb_cipher      bytea NOT NULL,
    PRIMARY KEY (user_hash, id),
    UNIQUE (user_hash, space, doc_id, chunk_index),
    CONSTRAINT memory_chunks_user_hash_hex CHECK (user_hash ~ '^[0-9a-f]{64}$'),
    CONSTRAINT memory_chunks_offsets CHECK (0 <= char_start AND char_start < char_end),
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
