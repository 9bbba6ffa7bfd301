-- One row a user. The user id itself is sealed under the user's own data key.
CREATE TABLE memory_tenants (
    user_hash       text COLLATE "C" NOT NULL PRIMARY KEY,
    user_id_cipher  bytea NOT NULL,
    state           text NOT NULL DEFAULT 'active',
    moved_to        text COLLATE "C",
    generation      integer NOT NULL DEFAULT 1,
    document_count  bigint NOT NULL DEFAULT 0,
    chunk_count     bigint NOT NULL DEFAULT 0,
    seal_count      bigint NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT memory_tenants_user_hash_hex CHECK (user_hash ~ '^[0-9a-f]{64}$'),
    CONSTRAINT memory_tenants_moved_to_hex CHECK (moved_to ~ '^[0-9a-f]{64}$'),
    CONSTRAINT memory_tenants_state_known CHECK (state IN ('active', 'moving', 'moved', 'erasing')),
    CONSTRAINT memory_tenants_generation_positive CHECK (generation >= 1),
    CONSTRAINT memory_tenants_counts_not_negative
        CHECK (document_count >= 0 AND chunk_count >= 0 AND seal_count >= 0)
) WITH (fillfactor = 80);

-- The user's data keys, each sealed under a master key (key_id). Apart from the rows they open, so
-- that their backups can have a shorter retention: destroying the key is the erasure.
CREATE TABLE memory_data_keys (
    user_hash   text COLLATE "C" NOT NULL,
    generation  integer NOT NULL,
    key_id      text NOT NULL,
    sealed_key  bytea NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    retired_at  timestamptz,
    PRIMARY KEY (user_hash, generation),
    CONSTRAINT memory_data_keys_user_hash_hex CHECK (user_hash ~ '^[0-9a-f]{64}$'),
    CONSTRAINT memory_data_keys_generation_positive CHECK (generation >= 1),
    CONSTRAINT memory_data_keys_sealed_key_length CHECK (octet_length(sealed_key) = 60)
);
