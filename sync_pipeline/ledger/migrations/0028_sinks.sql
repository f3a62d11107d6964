-- Releases before this one would send what is owed to one sink to another, so they are refused from now on.
SELECT sync.require_writer(28);

-- The sinks of each entity. A sink that holds objects of keys has a bit in `held`, which no other sink of the entity
-- is ever given. `parts` are what a recovery compares of it after the new side has lost commits. Where it is declared
-- after rows were written, or under another place, it is filled from the ledger's rows (`fills`), in the order of keys.
CREATE TABLE sync.sink (
    entity   text NOT NULL,
    name     text NOT NULL,
    bit      smallint,
    parts    text[] NOT NULL DEFAULT '{}',
    place    text,                           -- as messages name it
    declared boolean NOT NULL DEFAULT true,  -- FALSE: the entity's file names it no longer
    fills    boolean NOT NULL DEFAULT false,
    position text[],                         -- the last key that was queued for it
    known_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (entity, name),
    UNIQUE (entity, bit)
);
-- The bits that entities had before there was a registry.
INSERT INTO sync.sink (entity, name, bit, parts)
SELECT entity, name, bit, parts::text[]
FROM sync.cursor, (VALUES ('relational', 1, '{}'), ('search', 2, '{index,"filling index",ledger}')) s (name, bit, parts);
INSERT INTO sync.sink (entity, name, parts) SELECT entity, 'media', '{files}' FROM sync.cursor;

-- To which sink something is owed, and which one has refused a row; NULL: to all of them, or none of them.
ALTER TABLE sync.due ADD COLUMN sink text;
UPDATE sync.due SET sink = 'search' WHERE reason = 'documents' OR step = 'document';

-- Whose index is filled; of a table NULL.
ALTER TABLE sync.rebuild ADD COLUMN sink text;
UPDATE sync.rebuild SET sink = 'search' WHERE kind = 'index';

ALTER TABLE sync.recovery DROP CONSTRAINT recovery_part_check;
ALTER TABLE sync.recovery ADD COLUMN sink text;
UPDATE sync.recovery SET sink = CASE part WHEN 'files' THEN 'media' ELSE 'search' END;
ALTER TABLE sync.recovery DROP CONSTRAINT recovery_pkey, ADD PRIMARY KEY (entity, sink, part);

-- Which columns a batch's `body` has.
ALTER TABLE sync.batch ADD COLUMN form smallint NOT NULL DEFAULT 1;

-- An entity may have several sinks of files, and a row may name one legacy file in two of them.
ALTER TABLE sync.media_ref ADD COLUMN sink text NOT NULL DEFAULT 'media';
ALTER TABLE sync.media_ref DROP CONSTRAINT media_ref_pkey, ADD PRIMARY KEY (entity, key, sink, source_key);

-- A kind of sink has places of a kind of its own.
ALTER TABLE sync.claim DROP CONSTRAINT claim_kind_check;
