DROP TABLE memory_erasures;
