-- Which entities' tables refer to which: a parent's rows go after those that refer to them.
CREATE TABLE sync.reference (
    entity   text NOT NULL,
    parent   text NOT NULL,
    relation text NOT NULL,                  -- the referring table, quoted
    key      text[] NOT NULL,                -- its key columns
    columns  text[] NOT NULL,                -- the columns that hold the parent's key, in its order
    PRIMARY KEY (entity, parent, columns)
);
CREATE INDEX reference_parent ON sync.reference (parent);

-- A row that waits for one of another entity: a child for its parent, a parent that goes for its last child.
ALTER TABLE sync.due ADD COLUMN waits_for text, ADD COLUMN waits_key text;
CREATE INDEX due_waits ON sync.due (waits_for, waits_key) WHERE waits_for IS NOT NULL;
