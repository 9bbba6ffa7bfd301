DROP TABLE memory_chunks;
