-- Objects on their way into the new bucket: who is killed between a copy and its record leaves one that nothing names.
CREATE TABLE sync.copying (
    target_key text COLLATE "C" PRIMARY KEY,
    started_at timestamptz NOT NULL DEFAULT now()
);
