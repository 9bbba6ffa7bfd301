DROP INDEX memory_documents_derived;
DROP INDEX memory_documents_by_time;
DROP TABLE memory_erasures;
DROP TABLE memory_rate_buckets;
DROP TABLE memory_idempotency;
