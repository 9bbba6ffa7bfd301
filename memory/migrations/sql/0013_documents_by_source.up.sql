-- Newest first, page by page, of one source: without it a page reads along everything that is from elsewhere.
CREATE INDEX memory_documents_by_source ON memory_documents (user_hash, source, created_at, doc_id);
