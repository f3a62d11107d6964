-- Who follows the live delta now; a follower that has not been seen for a while is dead or hangs.
CREATE TABLE sync.follower (
    name       text PRIMARY KEY,
    host       text NOT NULL,
    pid        integer NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now()
);

-- A sweep that somebody waits for: one that begins after this instant of legacy time.
ALTER TABLE sync.cursor ADD COLUMN sweep_wanted timestamptz;

-- When the whole history was in for the first time: from then on a key that the ledger lacks was missed.
ALTER TABLE sync.cursor ADD COLUMN filled_at timestamptz;
