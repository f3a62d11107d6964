-- The servers that both sides are on, as they were last seen: another one is noticed before anything is read from it.
CREATE TABLE sync.server (
    side          text PRIMARY KEY CHECK (side IN ('monolith', 'new-side')),
    system_id     text NOT NULL,
    database_oid  bigint NOT NULL,
    database_name text NOT NULL,
    timeline      integer NOT NULL,
    started_at    timestamptz NOT NULL,           -- its own clock, as all of these but changed_at
    flushed       bigint NOT NULL,                -- how far its log was durable
    seen_at       timestamptz NOT NULL,
    changed_at    timestamptz NOT NULL DEFAULT now(),
    cause         text,                           -- why it was changed last
    read_above    bigint NOT NULL DEFAULT 0       -- batches up to this revision may have read a server that is no more
);

-- After the new side has lost commits: how far its indices and files have been compared with the ledger.
CREATE TABLE sync.recovery (
    entity        text NOT NULL,
    part          text NOT NULL CHECK (part IN ('index', 'filling index', 'ledger', 'files')),
    asked_at      timestamptz NOT NULL DEFAULT now(),
    cause         text NOT NULL,
    position      text[],
    checked       bigint NOT NULL DEFAULT 0,
    queued        bigint NOT NULL DEFAULT 0,
    claimed_until timestamptz,
    done_at       timestamptz,
    PRIMARY KEY (entity, part)
);

-- A batch says by which timeline of the monolith it has read. The lock lets a change wait for batches that are about to
-- commit, and has those wait that come after it; so none commits what it has read before, once the change is noted.
CREATE FUNCTION sync.check_read(batch bigint, believed integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(1398362707, 1);
    IF EXISTS (SELECT FROM sync.server WHERE side = 'monolith' AND (read_above >= batch OR timeline <> believed)) THEN
        RAISE EXCEPTION 'revision %: what it has read is of a server that the monolith has left: it is read again', batch
            USING ERRCODE = 'SYL02';
    END IF;
END $$;
