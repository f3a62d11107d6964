-- A sweep keeps its place here, so that the next run, or another host, goes on with it.
CREATE TABLE sync.sweep (
    entity     text PRIMARY KEY,
    number     bigint NOT NULL DEFAULT 0,    -- of the present walk, or of the last one
    state      text NOT NULL DEFAULT 'ended' CHECK (state IN ('walking', 'held', 'ended')),
    phase      text NOT NULL DEFAULT 'keys', -- sweep.py
    position   text[],                       -- in the phase: a key, a key of the bucket, a record of `due`
    versions   jsonb,                        -- what digests, rows and server were then: it starts over under others
    filled     boolean NOT NULL DEFAULT false, -- the history was all in when it began
    began_at   timestamptz,                  -- the monolith's time before the first page
    started_at timestamptz,
    paged_at   timestamptz,                  -- when a page was last done
    ended_at   timestamptz,
    compared   bigint NOT NULL DEFAULT 0,
    changed    bigint NOT NULL DEFAULT 0,
    gone       bigint NOT NULL DEFAULT 0,
    outdated   bigint NOT NULL DEFAULT 0,
    unfilled   bigint NOT NULL DEFAULT 0,
    files      bigint NOT NULL DEFAULT 0,
    owner      text,
    lease_until timestamptz,
    epoch      bigint NOT NULL DEFAULT 0,    -- tells a former sweeper apart from the present one
    waits_since timestamptz,                 -- for one of SYNC_SWEEP_WORKERS places
    waits_until timestamptz                  -- it is not waited for after that, unless it looks again
);

-- Keys that the present walk did not find in the monolith. They become due when it ends, and the brake allows it.
CREATE TABLE sync.sweep_gone (
    entity text NOT NULL,
    n      bigint GENERATED ALWAYS AS IDENTITY,
    keys   text[] NOT NULL,
    PRIMARY KEY (entity, n)
);

-- Who has allowed a sweep that the brake holds to delete so many rows. Each one counts for one sweep.
CREATE TABLE sync.sweep_approval (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entity      text NOT NULL,
    gone        bigint NOT NULL,
    approved_at timestamptz NOT NULL DEFAULT now(),
    approved_by text NOT NULL,
    reason      text NOT NULL,
    ended_at    timestamptz,                 -- NULL: the sweep that it counts for has not ended
    outcome     text                         -- used, not needed, exceeded
);
CREATE UNIQUE INDEX sweep_approval_open ON sync.sweep_approval (entity) WHERE ended_at IS NULL;

-- The walk that queued a record: when a later one has ended, the record says nothing new.
ALTER TABLE sync.due ADD COLUMN walk bigint;
