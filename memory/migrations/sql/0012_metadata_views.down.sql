REVOKE SELECT ON django_migrations FROM r1_app;
-- The views are r1_backup's; the owner may act as it for this.
SET LOCAL ROLE r1_backup;
DROP VIEW memory_chunks_meta, memory_documents_meta, memory_search_keys_meta, memory_data_keys_meta, memory_tenants_meta;
RESET ROLE;
