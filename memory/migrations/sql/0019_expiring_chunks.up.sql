-- How many of a user's chunks have expired and are not deleted yet, which a search must look past.
CREATE INDEX memory_chunks_expiring ON memory_chunks (user_hash, expires_at) WHERE expires_at IS NOT NULL;
