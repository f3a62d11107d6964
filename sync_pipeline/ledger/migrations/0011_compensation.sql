-- What a key's row and references were before a revision wrote them, where the entity is to be put back if its document
-- is refused. Kept from the rows' transaction until the document is taken.
CREATE TABLE sync.before (
    entity   text NOT NULL,
    key      text COLLATE "C" NOT NULL,
    revision bigint NOT NULL,                -- that wrote it then
    written  bigint NOT NULL,                -- that had written it before
    held     smallint NOT NULL,
    image    json,                           -- columns' text forms by name; NULL: there was no row
    files    json,                           -- target keys by source keys
    restored bigint,                         -- the revision that has put it back, and whose document is still to be sent
    document text,                           -- that document; NULL: there was none
    PRIMARY KEY (entity, key, revision)
);

-- Of a refused document: since when its row is as it was before, or the refusal (error, message) while it cannot be.
ALTER TABLE sync.due ADD COLUMN undone_at timestamptz, ADD COLUMN refused text[];
