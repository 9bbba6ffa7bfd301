DROP TABLE memory_key_rotations;
DROP TABLE memory_master_keys;
DROP TABLE memory_workers;
