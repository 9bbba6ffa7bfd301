-- What the admin of staff reads and writes. Views get a `key`, by which one row is named in an address; the tables of
-- Django's own applications hold staff: who they are, their sessions, who tried to log in. No tenant data in any.
SET LOCAL ROLE r1_backup;
DROP VIEW memory_chunks_meta, memory_documents_meta, memory_search_keys_meta, memory_data_keys_meta, memory_tenants_meta;
RESET ROLE;

CREATE VIEW memory_tenants_meta AS
    SELECT user_hash, state, moved_to, active_space, generation, seal_count, document_count, chunk_count, created_at,
           updated_at
    FROM memory_tenants;

CREATE VIEW memory_data_keys_meta AS
    SELECT user_hash, generation, key_id, seal_count, created_at, user_hash || '.' || generation AS key
    FROM memory_data_keys;

CREATE VIEW memory_search_keys_meta AS
    SELECT user_hash, space, key_id, created_at, user_hash || '.' || space AS key
    FROM memory_search_keys;

CREATE VIEW memory_documents_meta AS
    SELECT user_hash, doc_id, source, thread_id, sequence, chunk_count, char_count, generation,
           octet_length(meta_cipher) AS meta_cipher_bytes, speaker IS NOT NULL AS has_speaker,
           (SELECT count(*)::integer FROM memory_document_sources s
            WHERE s.user_hash = d.user_hash AND s.doc_id = d.doc_id) AS derived_from_count,
           created_at, expires_at, updated_at, user_hash || '.' || doc_id AS key
    FROM memory_documents d;

CREATE VIEW memory_chunks_meta AS
    SELECT user_hash, id, space, doc_id, chunk_index, source, thread_id, sequence, char_start, char_end, generation,
           octet_length(text_cipher) AS text_cipher_bytes, octet_length(meta_cipher) AS meta_cipher_bytes,
           quarantined_at, created_at, expires_at, updated_at, user_hash || '.' || id || '.' || space AS key
    FROM memory_chunks;

CREATE VIEW memory_moves_meta AS
    SELECT user_hash, target_hash, from_space, space, state, started_at, switched_at FROM memory_moves;

CREATE VIEW memory_erasures_meta AS
    SELECT user_hash, id, erased_at, unrecoverable_after, erased_documents, erased_chunks, user_hash || '.' || id AS key
    FROM memory_erasures;

GRANT CREATE ON SCHEMA public TO r1_backup;
DO $views$
DECLARE
    view_name text;
BEGIN
    FOREACH view_name IN ARRAY ARRAY['memory_tenants_meta', 'memory_data_keys_meta', 'memory_search_keys_meta',
                                     'memory_documents_meta', 'memory_chunks_meta', 'memory_moves_meta',
                                     'memory_erasures_meta'] LOOP
        EXECUTE format('REVOKE ALL ON %I FROM PUBLIC, r1_maint', view_name);
        EXECUTE format('GRANT SELECT ON %I TO r1_staff', view_name);
        EXECUTE format('ALTER VIEW %I OWNER TO r1_backup', view_name);
    END LOOP;
END
$views$;
REVOKE CREATE ON SCHEMA public FROM r1_backup;

-- What was done about one user, and the few tenants who are not at rest, at any number of rows.
CREATE INDEX memory_audit_by_subject ON memory_audit (subject, id);
CREATE INDEX memory_tenants_unsettled ON memory_tenants (user_hash) WHERE state <> 'active';

-- The check of the tenant HMAC key is nobody's to read who names no users.
REVOKE SELECT ON memory_spaces FROM r1_staff;
GRANT SELECT (space, fingerprint, edition, description, is_default, created_at) ON memory_spaces TO r1_staff;
GRANT SELECT ON memory_master_keys, memory_hmac_keys, memory_key_rotations, memory_workers TO r1_staff;
GRANT INSERT, UPDATE, DELETE ON memory_flags TO r1_staff;

-- Who may log in is r1_maint's to say (manage.py create_staff); staff changes no more of it than his own password.
REVOKE ALL ON auth_user, auth_group, auth_permission, auth_group_permissions, auth_user_groups,
    auth_user_user_permissions, django_content_type, django_session, django_admin_log, axes_accessattempt,
    axes_accessattemptexpiration, axes_accesslog, axes_accessfailurelog FROM PUBLIC, r1_app, r1_staff;
GRANT SELECT ON auth_user, auth_group, auth_permission, auth_group_permissions, auth_user_groups,
    auth_user_user_permissions, django_content_type TO r1_staff;
GRANT UPDATE (last_login, password) ON auth_user TO r1_staff;
GRANT SELECT, INSERT, UPDATE, DELETE ON django_session, axes_accessattempt, axes_accessattemptexpiration, axes_accesslog,
    axes_accessfailurelog TO r1_staff;
