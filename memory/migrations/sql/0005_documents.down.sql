DROP TABLE memory_document_sources;
DROP TABLE memory_documents;
