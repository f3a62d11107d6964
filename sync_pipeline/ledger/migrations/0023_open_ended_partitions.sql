-- The newest partition of a history is filled without an upper bound, and stays so when the month turns. A history is
-- all in once all partitions up to that one are: rows of later months are changes, which the source reports.
ALTER TABLE sync.backfill ADD COLUMN open_ended boolean NOT NULL DEFAULT false;
UPDATE sync.backfill SET open_ended = true WHERE partition = to_char(started_at AT TIME ZONE 'UTC', 'YYYY-MM');
