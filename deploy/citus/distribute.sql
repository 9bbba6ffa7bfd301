-- One user's rows on one node: every table of users' rows is distributed by `user_hash`, and colocated.
--
-- As r1_owner on the coordinator, in a database into which the migrations have run and in which nobody has stored anything,
-- with the extensions citus and vector on every node and `citus.shard_count` set to what the cluster is to grow to:
--     psql -v ON_ERROR_STOP=1 -d r1 -U r1_owner -f deploy/citus/distribute.sql
--
-- What is here was written against Citus' documentation and has not run on a cluster of ours: see README.md.

-- A partitioned table is distributed with its partitions. On Citus a shard is what a partition is on one machine.
SELECT create_distributed_table('memory_tenants', 'user_hash');
SELECT create_distributed_table(name, 'user_hash', colocate_with => 'memory_tenants')
FROM unnest(ARRAY[
    'memory_data_keys', 'memory_search_keys', 'memory_documents', 'memory_document_sources', 'memory_chunks',
    'memory_lexical_chunks', 'memory_lexical_segments', 'memory_lexical_blocks', 'memory_idempotency',
    'memory_rate_buckets', 'memory_erasures'
]) AS tables (name);

-- Small, the same for everybody, read with every user's rows.
SELECT create_reference_table('memory_spaces');
SELECT create_reference_table('memory_flags');
SELECT create_reference_table('memory_key_changes');
