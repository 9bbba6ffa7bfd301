-- The log goes with it: keep it elsewhere first.
DROP TABLE memory_audit;
DROP FUNCTION memory_audit_refuse();
DROP FUNCTION memory_audit_chain();
DROP FUNCTION memory_audit_hash(bytea, bigint, timestamptz, text, text, text, jsonb);
