-- The basis (entity version, digest version) under which a row was refused: under another one it is tried at once.
ALTER TABLE sync.due ADD COLUMN basis integer;

-- Rows that wait for something else are many and seldom ready. They have orders of their own, so that nobody who looks
-- for work reads past all of them. The conditions are those of due.py, word for word.
DROP INDEX sync.due_order;
CREATE INDEX due_order ON sync.due (entity, priority, not_before)
    WHERE reason <> ALL (ARRAY['rejected', 'parent', 'children', 'discarded']);
CREATE INDEX due_waiting ON sync.due (entity, not_before) WHERE reason = ANY (ARRAY['parent', 'children']);
CREATE INDEX due_refused ON sync.due (entity, priority, not_before) WHERE reason = 'rejected';
CREATE INDEX due_refused_id ON sync.due (entity, id) WHERE reason = ANY (ARRAY['rejected', 'parent']);

-- Dead letters that no timer was set for are tried again over the next hours, not all at once.
UPDATE sync.due SET not_before = now() + random() * interval '6 hours'
WHERE reason = 'rejected' AND not_before = 'infinity' AND step IS DISTINCT FROM 'document' AND waits_for IS NULL
    AND error IS DISTINCT FROM 'MediaMissing';
UPDATE sync.due SET priority = 9 WHERE reason = 'rejected';
