DROP INDEX memory_chunks_by_speaker;
DROP INDEX memory_documents_by_speaker;
