DROP TABLE memory_tenants;
