DROP TABLE memory_spaces;
