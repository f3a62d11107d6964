-- The registry of sinks, `sync.sink`.

-- name: known
SELECT name, bit, parts, place, declared FROM sync.sink WHERE entity = %(entity)s

-- name: add
-- One that is new, that has moved, or that was left out for a while lacks rows, where there are any.
INSERT INTO sync.sink AS k (entity, name, bit, parts, place, fills)
VALUES (%(entity)s, %(name)s, %(bit)s, %(parts)s, %(place)s, %(has_rows)s)
ON CONFLICT (entity, name) DO UPDATE SET parts = excluded.parts, place = excluded.place, declared = true,
    fills = k.fills OR (NOT k.declared OR coalesce(k.place <> excluded.place, false)) AND %(has_rows)s,
    position = CASE WHEN k.declared AND k.place IS NOT DISTINCT FROM excluded.place THEN k.position END

-- name: leave_out
UPDATE sync.sink SET declared = false, fills = false, position = NULL
WHERE entity = %(entity)s AND declared AND name <> ALL(%(names)s)

-- name: filling
-- Among sinks that the caller's file declares. One that a program with another file has left out meanwhile lacks rows.
SELECT name, position, declared FROM sync.sink
WHERE entity = %(entity)s AND name = ANY(%(names)s) AND (fills OR NOT declared) ORDER BY name

-- name: advance
-- Nothing where another worker has come before, or the sink has moved meanwhile.
UPDATE sync.sink SET position = %(after)s, fills = %(after)s::text[] IS NOT NULL
WHERE entity = %(entity)s AND name = %(name)s AND fills AND position IS NOT DISTINCT FROM %(before)s

-- name: is_declared
SELECT declared FROM sync.sink WHERE entity = %(entity)s AND name = %(name)s

-- name: left_behind
SELECT entity, name, place FROM sync.sink WHERE NOT declared AND place IS NOT NULL ORDER BY 1, 2
