-- The known speakers of a user are those of the documents there are: one look into this index a speaker. Whether the last
-- document of one has gone is a look too.
CREATE INDEX memory_documents_by_speaker ON memory_documents (user_hash, speaker) WHERE speaker IS NOT NULL;
-- A question can be narrowed to what one speaker said.
CREATE INDEX memory_chunks_by_speaker ON memory_chunks (user_hash, speaker) WHERE speaker IS NOT NULL;
