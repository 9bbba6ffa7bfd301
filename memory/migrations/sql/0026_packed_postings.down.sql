-- The postings of a block as an array of integers again.
ALTER TABLE memory_lexical_blocks DROP CONSTRAINT memory_lexical_blocks_postings_size;
CREATE FUNCTION memory_unpacked_postings(packed bytea) RETURNS integer[]
    LANGUAGE sql IMMUTABLE
    AS $unpacked$
        SELECT coalesce(array_agg((get_byte(postings, at) << 24) | (get_byte(postings, at + 1) << 16)
                                  | (get_byte(postings, at + 2) << 8) | get_byte(postings, at + 3) ORDER BY at), '{}')
        -- Put together once: get_byte() would fetch a toasted value anew for every byte.
        FROM (SELECT packed || ''::bytea AS postings OFFSET 0) AS flat,
             generate_series(0, octet_length(postings) - 4, 4) AS p (at)
    $unpacked$;
ALTER TABLE memory_lexical_blocks ALTER COLUMN postings TYPE integer[] USING memory_unpacked_postings(postings);
DROP FUNCTION memory_unpacked_postings(bytea);
