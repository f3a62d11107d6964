-- The oldest release that may write this ledger, by the number of its last migration; 0 admits every release. A
-- migration that a former release would damage calls sync.require_writer, in its second step: the new form is there
-- already, and every worker that may not know it is refused from then on.
ALTER TABLE sync.ledger_identity ADD COLUMN oldest_writer integer NOT NULL DEFAULT 0;

-- Each session of the engine says its release in sync.writer. Releases from before this migration say nothing. A
-- session of another program, such as an operator's psql, is not refused. The lock lets a migration wait for batches
-- that have begun, and holds up those that come after it until it has ended.
CREATE FUNCTION sync.refuse_former_release() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    writer integer := coalesce(nullif(current_setting('sync.writer', true), ''), '0')::integer;
    oldest integer;
BEGIN
    IF split_part(current_setting('application_name'), '/', 1) <> 'sync-pipeline' THEN
        RETURN NULL;
    END IF;
    PERFORM pg_advisory_xact_lock_shared(1398362707, 2);
    SELECT oldest_writer INTO oldest FROM sync.ledger_identity;
    IF writer < oldest THEN
        RAISE EXCEPTION 'the ledger takes writes of release % and later, and this program is of release %', oldest, writer
            USING ERRCODE = 'SYL03';
    END IF;
    RETURN NULL;
END $$;

-- Leases, what is due, batches, pieces of history, sweeps and recoveries: whatever a worker begins or ends.
DO $$
DECLARE written regclass;
BEGIN
    FOREACH written IN ARRAY ARRAY['sync.cursor', 'sync.due', 'sync.batch', 'sync.backfill', 'sync.sweep',
        'sync.recovery', 'sync.rebuild']::regclass[] LOOP
        EXECUTE format('CREATE TRIGGER former_release BEFORE INSERT OR UPDATE OR DELETE ON %s'
            ' FOR EACH STATEMENT EXECUTE FUNCTION sync.refuse_former_release()', written);
    END LOOP;
END $$;

-- For migrations, as their first statement: admit this release and later ones only, once every batch of the others that
-- has begun has ended. A migration that held a table's lock already could wait for a batch that waits for the table.
CREATE FUNCTION sync.require_writer(release integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1398362707, 2);
    UPDATE sync.ledger_identity SET oldest_writer = greatest(oldest_writer, release);
END $$;
