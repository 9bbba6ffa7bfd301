-- The space whose chunks have an index of this user's own, where there is one, and how often his newest key had sealed
-- when it was built: what has been sealed since tells how much of it is new. Seals without a space: an index was tried
-- then, and found too little.
ALTER TABLE memory_tenants
    ADD COLUMN indexed_space smallint,
    ADD COLUMN indexed_seals bigint,
    ADD CONSTRAINT memory_tenants_indexed_whole CHECK (indexed_space IS NULL OR indexed_seals IS NOT NULL);

-- Of the newest segment of a user and space: every chunk in the memtable has this id or a later one. Who reads the
-- memtable begins here: below stand only rows that were flushed, dead until a VACUUM.
ALTER TABLE memory_lexical_segments
    ADD COLUMN memtable_from uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000';
