-- Blind terms: 32-bit ids, each an HMAC of a term under the
-- user's search key of one space. A chunk's terms stand in one
-- of two places: as a row of their own in memory_lexical_chunks while the user has few such rows, or in
-- a segment of 1,024 chunks, inverted into 256 blocks by the low byte of the id. A block is read by an
-- index condition on text and integers, whose equality is LEAKPROOF, so row-level security allows it.

-- One row a chunk: its terms, ascending, with how often each occurs, and its length in terms.
CREATE TABLE memory_lexical_chunks (
    chunk_id     uuid NOT NULL,
    length       integer NOT NULL,
    space        smallint NOT NULL,
    user_hash    text COLLATE "C" NOT NULL,
    terms        integer[] NOT NULL,
    frequencies  smallint[] NOT NULL,
    PRIMARY KEY (user_hash, space, chunk_id),
    CONSTRAINT memory_lexical_chunks_user_hash_hex CHECK (user_hash ~ '^[0-9a-f]{64}$'),
    CONSTRAINT memory_lexical_chunks_length_range CHECK (length BETWEEN 0 AND 8191),
    CONSTRAINT memory_lexical_chunks_same_count CHECK (cardinality(terms) = cardinality(frequencies))
) PARTITION BY HASH (user_hash);

-- One row a segment: which chunks it numbers (from 0, by position), their lengths, and which still live.
-- A chunk that is deleted loses its bit; nothing else of the segment changes.
CREATE TABLE memory_lexical_segments (
    chunks       integer NOT NULL,
    live_chunks  integer NOT NULL,
    live_length  bigint NOT NULL,
    segment      integer NOT NULL,
    space        smallint NOT NULL,
    user_hash    text COLLATE "C" NOT NULL,
    first_id     uuid NOT NULL,
    last_id      uuid NOT NULL,
    live         bytea NOT NULL,
    chunk_ids    uuid[] NOT NULL,
    lengths      smallint[] NOT NULL,
    PRIMARY KEY (user_hash, space, segment),
    CONSTRAINT memory_lexical_segments_user_hash_hex CHECK (user_hash ~ '^[0-9a-f]{64}$'),
    CONSTRAINT memory_lexical_segments_live_size CHECK (octet_length(live) = 128),
    CONSTRAINT memory_lexical_segments_size CHECK (chunks BETWEEN 1 AND 1024),
    CONSTRAINT memory_lexical_segments_counts CHECK (live_chunks BETWEEN 1 AND chunks AND live_length >= 0)
);
-- The liveness bits are read by every search and stay in the row; ids and lengths are read by few.
ALTER TABLE memory_lexical_segments
    ALTER COLUMN live SET STORAGE PLAIN,
    ALTER COLUMN chunk_ids SET STORAGE EXTERNAL,
    ALTER COLUMN lengths SET STORAGE EXTERNAL;

-- One row a segment and block: its terms, ascending; ends[i] is where the postings of terms[i] end. A
-- posting is (number in the segment) << 22 | (frequency) << 13 | (length of the chunk).
CREATE TABLE memory_lexical_blocks (
    segment      integer NOT NULL,
    space        smallint NOT NULL,
    block        smallint NOT NULL,
    user_hash    text COLLATE "C" NOT NULL,
    terms        integer[] NOT NULL,
    ends         integer[] NOT NULL,
    postings     integer[] NOT NULL,
    PRIMARY KEY (user_hash, space, block, segment),
    CONSTRAINT memory_lexical_blocks_user_hash_hex CHECK (user_hash ~ '^[0-9a-f]{64}$'),
    CONSTRAINT memory_lexical_blocks_block_range CHECK (block BETWEEN 0 AND 255),
    CONSTRAINT memory_lexical_blocks_same_count CHECK (cardinality(terms) = cardinality(ends))
) PARTITION BY HASH (user_hash);

DO $partitions$
DECLARE
    tenant_table text;
BEGIN
    FOREACH tenant_table IN ARRAY ARRAY['memory_lexical_chunks', 'memory_lexical_blocks'] LOOP
        FOR remainder IN 0..63 LOOP
            -- Rows stay whole up to a page: a search looks into each array more than once.
            EXECUTE format(
                'CREATE TABLE %1$s_p%2$s PARTITION OF %1$s
                     FOR VALUES WITH (MODULUS 64, REMAINDER %3$s)
                     WITH (toast_tuple_target = 8160)',
                tenant_table, lpad(remainder::text, 2, '0'), remainder);
        END LOOP;
    END LOOP;
END
$partitions$;
