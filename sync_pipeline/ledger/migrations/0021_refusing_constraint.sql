-- The constraint that refused a row because of other rows: rows that exchange their values are found by it.
ALTER TABLE sync.due ADD COLUMN refused_by text;
UPDATE sync.due SET refused_by = substring(message FROM 'constraint "([^"]+)"')
WHERE reason = 'rejected' AND step = 'row' AND error = ANY (ARRAY['ForeignKeyViolation', 'UniqueViolation', 'ExclusionViolation']);

-- Dead letters that are looked for besides their keys and times. The conditions are those of parking.py and
-- refused_rows.py, word for word: without these indices each look reads past all other letters.
CREATE INDEX due_refused_by ON sync.due (entity, refused_by, last_at) WHERE reason = 'rejected' AND refused_by IS NOT NULL;
CREATE INDEX due_repeating ON sync.due (entity, last_at) WHERE reason = 'rejected' AND step = 'row'
    AND error = ANY (ARRAY['UniqueViolation', 'ExclusionViolation']) AND waits_for IS NULL;
CREATE INDEX due_untimed ON sync.due (entity, last_at) WHERE reason = 'rejected' AND not_before = 'infinity'
    AND (error = 'MediaMissing' OR waits_for IS NOT NULL);
