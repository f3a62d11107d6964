-- Tables are filled beside the live one as well, and follow it.
ALTER TABLE sync.rebuild RENAME COLUMN index TO name;
ALTER TABLE sync.rebuild
    ADD COLUMN kind text NOT NULL DEFAULT 'index',   -- index, table
    ADD COLUMN revision bigint NOT NULL DEFAULT 0;   -- whoever fills a table has a higher one

-- Tables as they stand, the first of the relations and, where an entity's table is being filled, the second. A function,
-- since every batch asks; of one relation after the other, since such a plan is made once in a session, and one over all
-- of them each time.
CREATE FUNCTION sync.standing(of_entity text, relations text[])
RETURNS TABLE (n bigint, columns text[], types text[]) LANGUAGE plpgsql STABLE AS $$
BEGIN
    FOR i IN 1..2 LOOP
        n := i;
        EXIT WHEN n = 2 AND NOT EXISTS (SELECT FROM sync.rebuild b
            WHERE (b.entity, b.kind, b.state) = (of_entity, 'table', 'filling'));
        SELECT array_agg(a.attname::text), array_agg(format_type(a.atttypid, a.atttypmod)) INTO columns, types
        FROM (SELECT * FROM pg_attribute WHERE attrelid = to_regclass(relations[n]) AND attnum > 0 AND NOT attisdropped
            ORDER BY attnum) a;
        IF columns IS NOT NULL THEN
            RETURN NEXT;
        END IF;
    END LOOP;
END $$;
