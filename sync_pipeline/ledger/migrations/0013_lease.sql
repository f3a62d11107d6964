-- Said by the statement itself, it needs no journey of its own to be asked for.
CREATE FUNCTION sync.must_hold(holds boolean, entity text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT holds THEN
        RAISE EXCEPTION 'entity %: another worker follows it now', entity USING ERRCODE = 'SYL01';
    END IF;
END $$;
