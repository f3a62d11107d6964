-- The ledger: what was written when, what is owed, how far each source has been read.
-- One table of keys an entity is added when the entity is first opened (ledger.py), typed as its key is.

-- Orders all writes: a batch takes one number before it reads the legacy rows.
CREATE SEQUENCE sync.revision;

-- What a ledger row's digest was made under: another basis cannot be compared, only written again.
CREATE TABLE sync.basis (
    id             integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entity         text NOT NULL,
    entity_version integer NOT NULL,
    digest_version text NOT NULL,
    opened_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (entity, entity_version, digest_version)
);

-- Where the live delta stands, and who follows it.
CREATE TABLE sync.cursor (
    entity          text PRIMARY KEY,
    state           jsonb,                   -- opaque outside the source
    applied_through timestamptz,             -- legacy time: everything committed before it is applied or due
    window_since    timestamptz,             -- start of the oldest open legacy transaction
    window_holder   text,                    -- who holds it: pid and query
    blind           text,                    -- why the window cannot be trusted without the sweep
    swept_from      timestamptz,             -- legacy time before which the last whole sweep began
    swept_at        timestamptz,
    sweep_error     text,
    epoch           bigint NOT NULL DEFAULT 0,
    owner           text,
    lease_until     timestamptz,
    updated_at      timestamptz NOT NULL DEFAULT now()
);

-- Everything that is owed. A record names one key, or all keys of a batch.
CREATE TABLE sync.due (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entity        text NOT NULL,
    reason        text NOT NULL CHECK (reason IN ('documents', 'media', 'sweep', 'overtaken', 'rejected')),
    key           text,
    keys          text[],
    revision      bigint NOT NULL,
    priority      smallint NOT NULL,
    not_before    timestamptz NOT NULL DEFAULT now(),
    attempts      integer NOT NULL DEFAULT 0,
    step          text,
    error         text,
    message       text,
    claimed_until timestamptz,
    first_at      timestamptz NOT NULL DEFAULT now(),
    last_at       timestamptz NOT NULL DEFAULT now(),
    CHECK ((key IS NULL) <> (keys IS NULL))
);
CREATE UNIQUE INDEX due_key ON sync.due (entity, key, reason) WHERE key IS NOT NULL;
CREATE INDEX due_order ON sync.due (entity, priority, not_before);

-- How far each partition of an entity's history has been filled.
CREATE TABLE sync.backfill (
    entity      text NOT NULL,
    partition   text NOT NULL,
    basis       integer NOT NULL,
    low         text[],                      -- key range, frozen when the backfill opened; NULL is open
    high        text[],
    position    text[],
    done        boolean NOT NULL DEFAULT false,
    rows        bigint NOT NULL DEFAULT 0,
    written     bigint NOT NULL DEFAULT 0,
    parked      bigint NOT NULL DEFAULT 0,
    started_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    PRIMARY KEY (entity, partition)
);

-- Every object we have put in the new bucket, by content identity.
CREATE TABLE sync.media (
    target_key  text COLLATE "C" PRIMARY KEY,
    source_key  text COLLATE "C" NOT NULL,
    source_etag text NOT NULL,
    size        bigint NOT NULL,
    sha256      text NOT NULL,
    target_etag text NOT NULL,
    copied_at   timestamptz NOT NULL DEFAULT now(),
    unused_since timestamptz,
    deleting    boolean NOT NULL DEFAULT false
);
CREATE INDEX media_source ON sync.media (source_key);

-- Which rows name which objects.
CREATE TABLE sync.media_ref (
    entity     text NOT NULL,
    key        text COLLATE "C" NOT NULL,
    source_key text COLLATE "C" NOT NULL,
    target_key text COLLATE "C" NOT NULL,
    PRIMARY KEY (entity, key, source_key)
);
CREATE INDEX media_ref_target ON sync.media_ref (target_key);
CREATE INDEX media_ref_source ON sync.media_ref (source_key);
