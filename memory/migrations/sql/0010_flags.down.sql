DROP TABLE memory_flags;
