-- A digest can be computed again by a later version of the engine: its rows are compared with what it is then.
ALTER TABLE sync.basis ADD COLUMN expression text;            -- SQL of the digest of a legacy row q; NULL: not known
ALTER TABLE sync.basis ADD COLUMN parts jsonb;                -- by column, its part of the expression
ALTER TABLE sync.basis ADD COLUMN target_expression text;     -- the same of the new side's row; not used yet
ALTER TABLE sync.basis ADD COLUMN superseded_at timestamptz;  -- when another basis came into use; NULL: in use
ALTER TABLE sync.basis ADD COLUMN emptied_at timestamptz;     -- when a sweep met no row of it; NULL: there may be some

-- Of several bases the last one opened is in use, until the entity is opened again.
UPDATE sync.basis b SET superseded_at = now()
WHERE EXISTS (SELECT FROM sync.basis o WHERE o.entity = b.entity AND o.id > b.id);

-- Rows of a former digest that the sweep has found to be right, or has queued.
ALTER TABLE sync.sweep ADD COLUMN rebased bigint NOT NULL DEFAULT 0;

-- The digest of the new side's row, under the basis's target_expression; not used yet. A NULL takes no room in a row.
DO $$
DECLARE ledger regclass;
BEGIN
    FOR ledger IN SELECT to_regclass(format('sync.%I', 'ledger_' || entity)) FROM sync.cursor ORDER BY entity LOOP
        IF ledger IS NOT NULL THEN
            EXECUTE format('ALTER TABLE %s ADD COLUMN IF NOT EXISTS target_digest bigint', ledger);
        END IF;
    END LOOP;
END $$;
