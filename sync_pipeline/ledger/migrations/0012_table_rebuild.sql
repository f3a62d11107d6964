-- Tables are filled beside the live one as well, and follow it.
ALTER TABLE sync.rebuild RENAME COLUMN index TO name;
ALTER TABLE sync.rebuild
    ADD COLUMN kind text NOT NULL DEFAULT 'index',   -- index, table
    ADD COLUMN revision bigint NOT NULL DEFAULT 0;   -- whoever fills a table has a higher one

-- Tables as they stand, the first of the relations and, where an entity's table is being filled, the others. A function,
-- since every batch asks: its plan is made once in a session.
CREATE FUNCTION sync.standing(of_entity text, relations text[])
RETURNS TABLE (n bigint, columns text[], types text[]) LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY
        SELECT r.n, array_agg(a.attname::text ORDER BY a.attnum),
            array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum)
        FROM unnest(relations) WITH ORDINALITY r (relation, n) JOIN pg_attribute a ON a.attrelid = to_regclass(r.relation)
        WHERE a.attnum > 0 AND NOT a.attisdropped AND (r.n = 1 OR EXISTS (SELECT FROM sync.rebuild b
            WHERE (b.entity, b.kind, b.state) = (of_entity, 'table', 'filling')))
        GROUP BY r.n;
END $$;
