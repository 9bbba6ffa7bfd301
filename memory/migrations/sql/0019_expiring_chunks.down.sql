DROP INDEX memory_chunks_expiring;
