-- One row a user. The user id itself is sealed under the user's newest data key. `profile` is a new random value each time
-- that a key of the user or the active space changes: who has cached them compares it inside every transaction.
CREATE TABLE memory_tenants (
    user_hash       text COLLATE "C" NOT NULL PRIMARY KEY,
    profile         uuid NOT NULL,
    user_id_cipher  bytea NOT NULL,
    state           text NOT NULL DEFAULT 'active',
    moved_to        text COLLATE "C",
    active_space    smallint NOT NULL,
    -- The newest generation of the data key, which seals, and how often it has.
    generation      integer NOT NULL DEFAULT 1,
    seal_count      bigint NOT NULL DEFAULT 0,
    document_count  bigint NOT NULL DEFAULT 0,
    chunk_count     bigint NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT memory_tenants_user_hash_hex CHECK (user_hash ~ '^[0-9a-f]{64}$'),
    CONSTRAINT memory_tenants_moved_to_hex CHECK (moved_to ~ '^[0-9a-f]{64}$'),
    CONSTRAINT memory_tenants_state_known CHECK (state IN ('active', 'moving', 'moved', 'erasing')),
    CONSTRAINT memory_tenants_generation_positive CHECK (generation >= 1),
    CONSTRAINT memory_tenants_counts_not_negative
        CHECK (document_count >= 0 AND chunk_count >= 0 AND seal_count >= 0)
) WITH (fillfactor = 80);
