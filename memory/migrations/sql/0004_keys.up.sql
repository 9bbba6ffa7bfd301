-- The user's data keys, one a generation, each sealed under a master key (key_id). Apart from the rows they open, so
-- that their backups can have a shorter retention: destroying the keys is the erasure. `seal_count` is what a
-- generation had sealed when it stopped being the newest, and what was sealed in its rows since; the newest one's is
-- counted in memory_tenants.
CREATE TABLE memory_data_keys (
    user_hash   text COLLATE "C" NOT NULL,
    generation  integer NOT NULL,
    key_id      text NOT NULL,
    sealed_key  bytea NOT NULL,
    seal_count  bigint NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_hash, generation),
    CONSTRAINT memory_data_keys_user_hash_hex CHECK (user_hash ~ '^[0-9a-f]{64}$'),
    CONSTRAINT memory_data_keys_generation_positive CHECK (generation >= 1),
    CONSTRAINT memory_data_keys_sealed_key_length CHECK (octet_length(sealed_key) = 60)
);

-- The user's search keys, one a space: what rotates the vectors and blinds the terms that search compares. They do not
-- change with the data keys, so that a question of today finds what was stored under yesterday's.
CREATE TABLE memory_search_keys (
    space       smallint NOT NULL,
    user_hash   text COLLATE "C" NOT NULL,
    key_id      text NOT NULL,
    sealed_key  bytea NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_hash, space),
    CONSTRAINT memory_search_keys_user_hash_hex CHECK (user_hash ~ '^[0-9a-f]{64}$'),
    CONSTRAINT memory_search_keys_sealed_key_length CHECK (octet_length(sealed_key) = 60)
);

-- ANALYZE keeps samples of a column's values; of sealed keys, which are to be destroyed, it must not.
ALTER TABLE memory_data_keys ALTER COLUMN sealed_key SET STATISTICS 0;
ALTER TABLE memory_search_keys ALTER COLUMN sealed_key SET STATISTICS 0;

-- One counter for each first byte of a user's hash, made and raised in the transaction that destroys or
-- replaces a key of such a user. Processes that hold opened keys compare them with what they saw last. No tenant data: a counter says that
-- somebody among 1/256 of all users was erased, and nothing more.
CREATE TABLE memory_key_changes (
    slot     smallint NOT NULL PRIMARY KEY,
    changes  bigint NOT NULL,
    CONSTRAINT memory_key_changes_slot CHECK (slot BETWEEN 0 AND 255)
) WITH (fillfactor = 50);

REVOKE ALL ON memory_key_changes FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE (changes) ON memory_key_changes TO r1_app;
GRANT SELECT ON memory_key_changes TO r1_backup;
