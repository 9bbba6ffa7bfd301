-- The ledger of erasures: it outlives the user's rows, and a restored backup is made to follow it.
CREATE TABLE memory_erasures (
    id                   uuid NOT NULL,
    erased_at            timestamptz NOT NULL,
    unrecoverable_after  timestamptz NOT NULL,
    erased_documents     bigint NOT NULL,
    erased_chunks        bigint NOT NULL,
    user_hash            text COLLATE "C" NOT NULL,
    PRIMARY KEY (user_hash, id),
    CONSTRAINT memory_erasures_user_hash_hex CHECK (user_hash ~ '^[0-9a-f]{64}$'),
    CONSTRAINT memory_erasures_counts_not_negative CHECK (erased_documents >= 0 AND erased_chunks >= 0)
);
