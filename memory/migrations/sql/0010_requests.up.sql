-- What answers a repeated request, holds a user to a rate and remembers that a user was erased; and
-- the ways into documents that listing them and forgetting what was made from them need.

-- The first answer to an Idempotency-Key, sealed under the user's key. Key and body are kept as HMACs
-- under that key, so neither can be read or guessed here.
CREATE TABLE memory_idempotency (
    created_at     timestamptz NOT NULL DEFAULT now(),
    generation     integer NOT NULL,
    status         smallint NOT NULL,
    user_hash      text COLLATE "C" NOT NULL,
    key_mac        bytea NOT NULL,
    body_mac       bytea NOT NULL,
    answer_cipher  bytea NOT NULL,
    PRIMARY KEY (user_hash, key_mac),
    CONSTRAINT memory_idempotency_user_hash_hex CHECK (user_hash ~ '^[0-9a-f]{64}$'),
    CONSTRAINT memory_idempotency_mac_lengths CHECK (octet_length(key_mac) = 32 AND octet_length(body_mac) = 32),
    CONSTRAINT memory_idempotency_status_success CHECK (status BETWEEN 200 AND 299)
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

-- As in 0005: forced, and four policies for r1_app.
DO $isolation$
DECLARE
    tenant_table text;
BEGIN
    FOREACH tenant_table IN ARRAY ARRAY['memory_idempotency', 'memory_rate_buckets', 'memory_erasures'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('CREATE POLICY memory_tenant_isolation_select ON %I FOR SELECT TO r1_app
            USING (user_hash = (SELECT memory_current_user_hash()))', tenant_table);
        EXECUTE format('CREATE POLICY memory_tenant_isolation_insert ON %I FOR INSERT TO r1_app
            WITH CHECK (user_hash = (SELECT memory_current_user_hash()))', tenant_table);
        EXECUTE format('CREATE POLICY memory_tenant_isolation_update ON %I FOR UPDATE TO r1_app
            USING (user_hash = (SELECT memory_current_user_hash()))
            WITH CHECK (user_hash = (SELECT memory_current_user_hash()))', tenant_table);
        EXECUTE format('CREATE POLICY memory_tenant_isolation_delete ON %I FOR DELETE TO r1_app
            USING (user_hash = (SELECT memory_current_user_hash()))', tenant_table);
        EXECUTE format('REVOKE ALL ON %I FROM PUBLIC', tenant_table);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO r1_app, r1_maint', tenant_table);
        EXECUTE format('GRANT SELECT ON %I TO r1_backup', tenant_table);
    END LOOP;
END
$isolation$;

-- Newest first, page by page.
CREATE INDEX memory_documents_by_time ON memory_documents (user_hash, created_at, doc_id);
-- Few documents are made from others; finding those of a document that goes must not read all.
CREATE INDEX memory_documents_derived ON memory_documents (user_hash) WHERE cardinality(derived_from) > 0;
