-- Which source a cursor's state belongs to, and since when changes may have been missed between two sources.
ALTER TABLE sync.cursor ADD COLUMN source text, ADD COLUMN gap_at timestamptz;
UPDATE sync.cursor SET source = 'watermark' WHERE state IS NOT NULL;

-- Roots of a changed parent, behind fresh edits.
ALTER TABLE sync.due DROP CONSTRAINT due_reason_check;
ALTER TABLE sync.due ADD CONSTRAINT due_reason_check
    CHECK (reason IN ('documents', 'media', 'sweep', 'overtaken', 'rejected', 'fanout'));
