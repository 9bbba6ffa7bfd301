-- What answers a repeated request, and what holds a user to a rate.

-- The first answer to an Idempotency-Key, sealed under the user's data key of `generation`. Key and body are
-- kept as HMACs under that key, so neither can be read or guessed here.
CREATE TABLE memory_idempotency (
    created_at     timestamptz NOT NULL DEFAULT now(),
    generation     integer NOT NULL,
    user_hash      text COLLATE "C" NOT NULL,
    key_mac        bytea NOT NULL,
    body_mac       bytea NOT NULL,
    answer_cipher  bytea NOT NULL,
    PRIMARY KEY (user_hash, key_mac),
    CONSTRAINT memory_idempotency_user_hash_hex CHECK (user_hash ~ '^[0-9a-f]{64}$'),
    CONSTRAINT memory_idempotency_mac_lengths CHECK (octet_length(key_mac) = 32 AND octet_length(body_mac) = 32)
);
CREATE INDEX memory_idempotency_by_age ON memory_idempotency (user_hash, created_at);

-- Token buckets. UNLOGGED: a crash empties them, which forgives; in return a decision waits for no disk.
CREATE UNLOGGED TABLE memory_rate_buckets (
    updated_at  timestamptz NOT NULL,
    tokens      double precision NOT NULL,
    user_hash   text COLLATE "C" NOT NULL,
    bucket      text COLLATE "C" NOT NULL,
    PRIMARY KEY (user_hash, bucket),
    CONSTRAINT memory_rate_buckets_user_hash_hex CHECK (user_hash ~ '^[0-9a-f]{64}$'),
    CONSTRAINT memory_rate_buckets_not_negative CHECK (tokens >= 0)
) WITH (fillfactor = 70);
