-- What happened, append-only, a partition a day (days.py); dropped by age once a snapshot of the ledger is taken.

-- One numbering for all of it: of one key, the order of numbers is the order of commits, for they are drawn under its lock.
CREATE SEQUENCE sync.log_id;

-- Batches that changed something in the ledger, in the rows' transaction.
CREATE TABLE sync.batch (
    id        bigint NOT NULL DEFAULT nextval('sync.log_id'),
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    xid       xid8 NOT NULL DEFAULT pg_current_xact_id(),
    entity    text NOT NULL,
    revision  bigint NOT NULL,
    basis     integer NOT NULL,
    cause     text NOT NULL,
    worker    text NOT NULL,
    position  text NOT NULL,                 -- legacy transactions, events or instants that it acknowledges
    written   integer NOT NULL,
    deleted   integer NOT NULL,
    parked    integer NOT NULL,
    documents integer NOT NULL,              -- owed by it
    files     integer NOT NULL,              -- copied for it
    rows      integer NOT NULL,
    size      integer NOT NULL,              -- of the body, before compression
    body      bytea NOT NULL                 -- what became of each key: log.py
) PARTITION BY RANGE (at);
ALTER TABLE sync.batch ALTER body SET STORAGE EXTERNAL;
CREATE INDEX batch_revision ON sync.batch (revision);

-- What is exceptional of single objects.
CREATE TABLE sync.event (
    id       bigint NOT NULL DEFAULT nextval('sync.log_id'),
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    xid      xid8 NOT NULL DEFAULT pg_current_xact_id(),
    entity   text NOT NULL,
    key      text COLLATE "C" NOT NULL,
    kind     text NOT NULL,
    step     text,
    said     text,
    revision bigint,
    digest   bigint,                         -- what the ledger takes for applied from then on, where `basis` is given
    basis    integer
) PARTITION BY RANGE (at);
CREATE INDEX event_key ON sync.event (entity, key);

-- Bulk requests that the cluster has answered: which revisions' documents it took.
CREATE TABLE sync.request (
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    entity    text NOT NULL,
    opaque_id text NOT NULL,                 -- as the cluster's own logs have it
    revisions bigint[] NOT NULL,             -- whose documents were in it
    documents integer NOT NULL,
    refused   integer NOT NULL
) PARTITION BY RANGE (at);
CREATE INDEX request_at ON sync.request (entity, at);

-- The ledger of an entity as one database snapshot saw it, in parts: with the log since, it can be made again.
CREATE TABLE sync.snapshot (
    entity   text NOT NULL,
    part     integer NOT NULL,
    taken_at timestamptz NOT NULL DEFAULT now(),
    seen     pg_snapshot NOT NULL,
    rows     integer NOT NULL,
    size     integer NOT NULL,
    body     bytea NOT NULL,
    PRIMARY KEY (entity, part)
);
ALTER TABLE sync.snapshot ALTER body SET STORAGE EXTERNAL;
