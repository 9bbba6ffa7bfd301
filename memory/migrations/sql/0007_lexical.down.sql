DROP TABLE memory_lexical_blocks;
DROP TABLE memory_lexical_segments;
DROP TABLE memory_lexical_chunks;
