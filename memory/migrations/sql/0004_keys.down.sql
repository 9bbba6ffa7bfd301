DROP TABLE memory_key_changes;
DROP TABLE memory_search_keys;
DROP TABLE memory_data_keys;
