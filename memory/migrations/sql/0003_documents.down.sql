DROP TABLE memory_documents;
