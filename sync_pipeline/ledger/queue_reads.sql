-- What reads the queue, `sync.due`.

-- name: causes
-- Records alike, with an example of what was said.
SELECT reason, step, error, sum(coalesce(cardinality(keys), 1))::bigint AS keys, max(attempts) AS attempts,
    min(first_at) AS first_at, nullif(min(not_before), 'infinity') AS next_at, min(message) AS message
FROM sync.due
WHERE {condition}
GROUP BY reason, step, error ORDER BY keys DESC, 1, 2, 3

-- name: records
-- The most urgent ones.
SELECT reason,
    coalesce(key, CASE WHEN cardinality(keys) = 1 THEN keys[1] ELSE cardinality(keys) || ' keys' END) AS key,
    step, error, message, attempts, first_at, last_at, nullif(not_before, 'infinity') AS next_at
FROM sync.due
WHERE {condition}
ORDER BY priority, not_before, id LIMIT %(limit)s

-- name: of_object
-- All that is owed of one object; a fan-out names its root.
SELECT reason, step, error, message, attempts, first_at, last_at, nullif(not_before, 'infinity') AS next_at, waits_for,
    waits_key, digest, discarded_at, discarded_by, discarded_why, undone_at
FROM sync.due
WHERE entity = %(entity)s
    AND (key = %(key)s OR %(key)s = ANY(keys) OR reason = 'fanout' AND %(root)s = ANY(keys))
ORDER BY priority, id

-- name: outages
-- Keys that wait for a store.
SELECT reason, sum(coalesce(cardinality(keys), 1))::bigint, min(first_at), max(message)
FROM sync.due
WHERE entity = %(entity)s AND reason <> 'rejected' AND error = 'UnreachableError'
GROUP BY reason

-- name: parked
SELECT entity, reason, coalesce(key, keys[1]) AS key, error, message
FROM sync.due
WHERE entity = ANY(%(entities)s) AND reason = ANY(%(parked)s)
ORDER BY entity, reason, first_at, id LIMIT %(limit)s

-- name: late
-- Of each key that is owed, whether it has been for longer than a limit.
SELECT k, bool_or(reason <> 'parent' AND first_at < now() - %(seconds)s * interval '1 s')
FROM sync.due d, unnest(coalesce(d.keys, ARRAY[d.key])) k
WHERE d.entity = %(entity)s AND k = ANY(%(keys)s) AND reason <> 'discarded'
GROUP BY k

-- name: parked_as_they_are
SELECT r.key
FROM unnest(%(keys)s::text[], %(digests)s::bigint[]) r (key, digest)
JOIN sync.due d ON d.entity = %(entity)s AND d.key = r.key AND d.reason = ANY(%(parked)s) AND d.digest = r.digest
WHERE coalesce(d.basis, %(basis)s) = %(basis)s

-- name: refused_by
-- Reads no others, however many dead letters there are (the index due_refused_by).
SELECT d.key
FROM unnest(%(constraints)s::text[]) c (name), LATERAL (
    SELECT key FROM sync.due WHERE entity = %(entity)s AND reason = 'rejected' AND refused_by = c.name
    ORDER BY last_at DESC LIMIT %(limit)s
) d

-- name: refused_page
SELECT id, key, digest, basis IS DISTINCT FROM %(basis)s AND basis IS NOT NULL
FROM sync.due
WHERE entity = %(entity)s AND reason = ANY (ARRAY['rejected', 'parent']) AND id > %(after)s
ORDER BY id LIMIT %(limit)s

-- name: dead_letter_causes
SELECT CASE reason WHEN 'discarded' THEN 'discarded' ELSE 'parked' END AS state, step, error, count(*) AS rows,
    max(attempts) AS attempts, min(first_at) AS first_at, max(last_at) AS last_at,
    nullif(min(not_before), 'infinity') AS next_at, min(message) AS message,
    (array_agg(key ORDER BY first_at, id))[:%(examples)s] AS keys
FROM sync.due
WHERE {condition}
GROUP BY 1, 2, 3 ORDER BY 1 DESC, 4 DESC, 2, 3

-- name: dead_letters
SELECT entity, key, CASE reason WHEN 'discarded' THEN 'discarded' ELSE 'parked' END AS state, step, error, message,
    attempts, first_at, last_at, nullif(not_before, 'infinity') AS next_at, waits_for, waits_key, digest, revision,
    discarded_at, discarded_by, discarded_why, undone_at, sink
FROM sync.due
WHERE {condition}

-- name: being_tried
SELECT count(*)
FROM sync.due
WHERE entity = %(entity)s
    AND (reason = 'rejected' AND key = ANY(%(keys)s) OR reason = 'compensation' AND keys && %(keys)s)
    AND (claimed_until > now() OR not_before <= now())
