-- The postings of a block as bytes, four each, the highest first (what int4send() gives), behind one another. An array
-- is taken apart element by element to be cut and again to be sent; of bytes a stretch is copied.
CREATE FUNCTION memory_packed_postings(postings integer[]) RETURNS bytea
    LANGUAGE sql IMMUTABLE
    AS $packed$
        SELECT coalesce(string_agg(int4send(posting), ''::bytea ORDER BY nth), ''::bytea)
        FROM unnest(postings) WITH ORDINALITY AS p (posting, nth)
    $packed$;
ALTER TABLE memory_lexical_blocks ALTER COLUMN postings TYPE bytea USING memory_packed_postings(postings);
DROP FUNCTION memory_packed_postings(integer[]);
ALTER TABLE memory_lexical_blocks ADD CONSTRAINT memory_lexical_blocks_postings_size
    CHECK (octet_length(postings) = 4 * coalesce(ends[cardinality(ends)], 0));
