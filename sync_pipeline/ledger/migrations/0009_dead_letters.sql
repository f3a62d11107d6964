-- Which legacy row was refused, so that it can be told from a later one; and who set it aside for good, when and why.
ALTER TABLE sync.due ADD COLUMN digest bigint, ADD COLUMN discarded_at timestamptz, ADD COLUMN discarded_by text,
    ADD COLUMN discarded_why text;
