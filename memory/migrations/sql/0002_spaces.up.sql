-- What a chunk's `space` number stands for: model, chunking and protection scheme. No tenant data.
-- Each user has one active space (memory_tenants.active_space); new users begin in the default one, of which there is
-- at most one. The service refuses to run with a first model of another.
CREATE TABLE memory_spaces (
    space        smallint NOT NULL PRIMARY KEY,
    fingerprint  text NOT NULL UNIQUE,
    description  jsonb NOT NULL,
    is_default   boolean NOT NULL DEFAULT false,
    -- HMAC of a constant under MEMORY_TENANT_HMAC_KEY: with another key every user would seem new.
    tenant_key_check  bytea NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX memory_spaces_one_default ON memory_spaces (is_default) WHERE is_default;

REVOKE ALL ON memory_spaces FROM PUBLIC;
GRANT SELECT ON memory_spaces TO r1_app, r1_staff, r1_backup;
