DROP TABLE memory_key_changes;
