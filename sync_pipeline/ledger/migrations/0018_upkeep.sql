-- Objects of the new bucket that may have lost their last name. Only added to: whoever takes a name away waits for nobody.
CREATE TABLE sync.garbage (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    target_key text COLLATE "C" NOT NULL,
    look_at    timestamptz NOT NULL DEFAULT now()
);

CREATE FUNCTION sync.queue_garbage() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO sync.garbage (target_key) SELECT DISTINCT target_key FROM gone;
    RETURN NULL;
END $$;
CREATE TRIGGER garbage AFTER DELETE ON sync.media_ref REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION sync.queue_garbage();

CREATE FUNCTION sync.queue_garbage_of_images() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO sync.garbage (target_key)
    SELECT DISTINCT f.value FROM gone, json_each_text(gone.files) f;
    RETURN NULL;
END $$;
CREATE TRIGGER garbage AFTER DELETE ON sync.before REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION sync.queue_garbage_of_images();

CREATE INDEX media_unused ON sync.media (unused_since) WHERE unused_since IS NOT NULL;
CREATE INDEX media_deleting ON sync.media (target_key) WHERE deleting;

-- What keeps a ledger small. Objects that lost their names before this migration are found by one scan, page by page.
CREATE TABLE sync.upkeep (
    only_one    boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    collected_at timestamptz NOT NULL DEFAULT '-infinity', -- when somebody last looked for garbage
    scan_after  text COLLATE "C",            -- how far that scan is
    scanned     boolean NOT NULL,
    trimmed_at  timestamptz                  -- when the log was last trimmed
);
INSERT INTO sync.upkeep (scanned) SELECT NOT EXISTS (SELECT FROM sync.media);
