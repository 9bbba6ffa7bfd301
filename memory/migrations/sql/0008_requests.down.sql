DROP TABLE memory_rate_buckets;
DROP TABLE memory_idempotency;
