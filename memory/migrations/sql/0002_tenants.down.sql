DROP TABLE memory_data_keys;
DROP TABLE memory_tenants;
