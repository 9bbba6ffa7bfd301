-- What each worker of the service said last of itself. Keys are named by id, each with a fingerprint that tells it from
-- another key under the same id and gives nothing of it away: {"k1": "0011223344556677"}. No tenant data, no key.
CREATE TABLE memory_workers (
    worker_id          uuid NOT NULL PRIMARY KEY,
    host               text NOT NULL,
    pid                integer NOT NULL,
    version            text NOT NULL,
    started_at         timestamptz NOT NULL DEFAULT now(),
    seen_at            timestamptz NOT NULL DEFAULT now(),
    master_keys        jsonb NOT NULL,
    hmac_keys          jsonb NOT NULL,
    -- What it would wrap a new key with, `transit:NAME` where a key server does, NULL where nothing can; and what it
    -- would name a new user by.
    active_master_key  text,
    active_hmac_key    text
) WITH (fillfactor = 50);

REVOKE ALL ON memory_workers FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON memory_workers TO r1_app, r1_maint;
GRANT SELECT ON memory_workers TO r1_backup;

-- The master keys that an operator has promoted or retired, by id. The one promoted last wraps new keys, and wins over
-- the environment. `unused_since`: when a look last found that it wraps nothing any more. No key here, and none derived
-- from one but the fingerprint.
CREATE TABLE memory_master_keys (
    key_id        text NOT NULL PRIMARY KEY,
    fingerprint   text,
    promoted_at   timestamptz,
    unused_since  timestamptz,
    retired_at    timestamptz,
    CONSTRAINT memory_master_keys_promoted_are_known CHECK (promoted_at IS NULL OR fingerprint IS NOT NULL)
);

REVOKE ALL ON memory_master_keys FROM PUBLIC;
GRANT SELECT ON memory_master_keys TO r1_app, r1_backup;
GRANT SELECT, INSERT, UPDATE, DELETE ON memory_master_keys TO r1_maint;

-- Runs of `rotate_keys --data` over all users, so that one that was killed goes on and begins nothing anew: who has
-- a data key from before `started_at` gets another one.
CREATE TABLE memory_key_rotations (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    started_at   timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz
);
CREATE UNIQUE INDEX memory_key_rotations_one_at_a_time ON memory_key_rotations ((true)) WHERE finished_at IS NULL;

REVOKE ALL ON memory_key_rotations FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON memory_key_rotations TO r1_maint;
GRANT SELECT ON memory_key_rotations TO r1_backup;
