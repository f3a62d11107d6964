-- Versions of rows, where events carry them: which one was applied last, and which one is waited for.
CREATE TABLE sync.version (
    entity  text NOT NULL,
    key     text COLLATE "C" NOT NULL,
    applied bigint,
    awaited bigint,
    PRIMARY KEY (entity, key)
);

-- Events from the future, old ones, and those whose version never showed.
ALTER TABLE sync.cursor ADD COLUMN events_deferred bigint NOT NULL DEFAULT 0,
    ADD COLUMN events_dropped bigint NOT NULL DEFAULT 0, ADD COLUMN events_unmet bigint NOT NULL DEFAULT 0,
    ADD COLUMN unmet_at timestamptz;

-- Reasons are named where they are ordered (due.py).
ALTER TABLE sync.due DROP CONSTRAINT IF EXISTS due_reason_check;
