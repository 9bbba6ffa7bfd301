DROP VIEW memory_chunks_meta, memory_documents_meta, memory_data_keys_meta, memory_tenants_meta;
REVOKE SELECT ON django_migrations FROM r1_app;
