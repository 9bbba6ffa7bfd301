-- One counter for each first byte of a user's hash, made and raised in the transaction that destroys or replaces a
-- data key of such a user. Processes that hold opened keys compare them with what they saw last. No tenant data: a counter says that
-- somebody among 1/256 of all users was erased, and nothing more.
CREATE TABLE memory_key_changes (
    slot     smallint NOT NULL PRIMARY KEY,
    changes  bigint NOT NULL,
    CONSTRAINT memory_key_changes_slot CHECK (slot BETWEEN 0 AND 255)
) WITH (fillfactor = 50);

REVOKE ALL ON memory_key_changes FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE (changes) ON memory_key_changes TO r1_app;
GRANT SELECT ON memory_key_changes TO r1_backup;
