-- Which entity has which table, alias and prefix, and whether it was empty when the entity came: then all that lies
-- there is ours to judge and to delete. What was there before is another's, and is left alone.
CREATE TABLE sync.claim (
    kind       text NOT NULL CHECK (kind IN ('table', 'index', 'prefix')),
    name       text NOT NULL,
    entity     text NOT NULL,
    ours_alone boolean NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (kind, name, entity)
);

-- Entities of earlier versions have had their places to themselves: an empty name is the one that they name next.
INSERT INTO sync.claim (kind, name, entity, ours_alone)
SELECT kind, '', entity, true FROM sync.cursor, unnest(ARRAY['table', 'index', 'prefix']) kind;
