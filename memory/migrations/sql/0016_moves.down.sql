-- Fails while a user has chunks in two spaces: finish his move first.
DROP TABLE memory_moved_documents, memory_moves, memory_hmac_keys;
ALTER TABLE memory_chunks DROP CONSTRAINT memory_chunks_pkey;
ALTER TABLE memory_chunks ADD CONSTRAINT memory_chunks_pkey PRIMARY KEY (user_hash, id);
ALTER TABLE memory_spaces DROP CONSTRAINT memory_spaces_fingerprint_edition;
ALTER TABLE memory_spaces DROP COLUMN edition;
ALTER TABLE memory_spaces ADD CONSTRAINT memory_spaces_fingerprint_key UNIQUE (fingerprint);
