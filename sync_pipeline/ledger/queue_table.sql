-- What writes the queue, `sync.due`. A record holds either `keys` (work of many rows) or one `key` (a row that was
-- refused, or waits for another one). Conditions of claims are those of the queue's indices, word for word: without
-- them, every look would read past all rows that are set aside.

-- name: insert_keys
-- What a rebuild fills to follow the sink's own is asked along: a batch has no moment to spare for it.
INSERT INTO sync.due (entity, reason, keys, revision, priority, walk, claimed_until, sink)
VALUES (%(entity)s, %(reason)s, %(keys)s::text[], %(revision)s, %(priority)s, %(walk)s,
    now() + %(claim_seconds)s::float8 * interval '1 s', %(sink)s)
RETURNING id, (SELECT r.name FROM sync.rebuild r WHERE (r.entity, r.sink, r.state) = (due.entity, due.sink, 'filling'))

-- name: insert_swept
-- What a sweep found deleted, in the order in which it found it.
INSERT INTO sync.due (entity, reason, keys, revision, priority, walk)
SELECT entity, %(reason)s, keys, 0, %(priority)s, %(walk)s FROM sync.sweep_gone WHERE entity = %(entity)s ORDER BY n

-- name: delete_swept_before
-- What earlier sweeps queued: the sweep of this number has seen all of it again.
DELETE FROM sync.due WHERE entity = %(entity)s AND (reason = 'sweep' AND coalesce(walk, 0) < %(walk)s
    OR reason = 'media' AND walk < %(walk)s AND %(covers_files)s)

-- name: claim_work
UPDATE sync.due SET claimed_until = now() + %(claim_seconds)s * interval '1 s' WHERE id IN (
    SELECT id FROM (
        SELECT id, priority, not_before FROM sync.due
        WHERE entity = %(entity)s AND not_before <= now() AND (claimed_until IS NULL OR claimed_until < now())
            AND reason <> ALL(%(useless)s::text[]) AND (sink IS NULL OR sink <> ALL(%(useless_sinks)s::text[]))
            AND reason <> ALL (ARRAY['rejected', 'parent', 'children', 'discarded'])
        ORDER BY priority, not_before LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    ) w
)
RETURNING id, reason, coalesce(keys, ARRAY[key]), attempts, extract(epoch FROM now() - first_at)::float8, sink

-- name: claim_all
-- Work, rows that wait for other rows, and dead letters: those that a person asked for before what is less urgent,
-- those whose time has come only where nothing else is left.
WITH work AS (
    SELECT id, priority, not_before FROM sync.due
    WHERE entity = %(entity)s AND not_before <= now() AND (claimed_until IS NULL OR claimed_until < now())
        AND reason <> ALL(%(useless)s::text[]) AND (sink IS NULL OR sink <> ALL(%(useless_sinks)s::text[]))
        AND reason <> ALL (ARRAY['rejected', 'parent', 'children', 'discarded'])
    ORDER BY priority, not_before LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), waiting AS (
    SELECT id, priority, not_before FROM sync.due
    WHERE entity = %(entity)s AND not_before <= now() AND (claimed_until IS NULL OR claimed_until < now())
        AND reason <> ALL(%(useless)s::text[]) AND reason = ANY (ARRAY['parent', 'children'])
    ORDER BY not_before LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), best AS (
    SELECT * FROM (TABLE work UNION ALL TABLE waiting) b ORDER BY priority, not_before LIMIT %(limit)s
), asked AS (
    SELECT id FROM sync.due
    WHERE entity = %(entity)s AND not_before <= now() AND (claimed_until IS NULL OR claimed_until < now())
        AND reason <> ALL(%(useless)s::text[]) AND reason = 'rejected' AND priority = %(asked)s
        AND NOT EXISTS (SELECT FROM best WHERE priority <= %(asked)s)
    ORDER BY not_before LIMIT %(refused_limit)s FOR UPDATE SKIP LOCKED
), again AS (
    SELECT id FROM sync.due
    WHERE entity = %(entity)s AND not_before <= now() AND (claimed_until IS NULL OR claimed_until < now())
        AND reason <> ALL(%(useless)s::text[]) AND reason = 'rejected' AND priority = %(again)s
        AND NOT EXISTS (SELECT FROM best UNION ALL SELECT FROM asked)
    ORDER BY not_before LIMIT %(refused_limit)s FOR UPDATE SKIP LOCKED
), chosen AS (
    SELECT id FROM best WHERE NOT EXISTS (SELECT FROM asked) UNION ALL TABLE asked UNION ALL TABLE again
)
UPDATE sync.due SET claimed_until = now() + %(claim_seconds)s * interval '1 s' WHERE id IN (SELECT id FROM chosen)
RETURNING id, reason, coalesce(keys, ARRAY[key]), attempts, extract(epoch FROM now() - first_at)::float8, sink

-- name: delete_sent
-- Sent to what readers use alone: done, unless a rebuild fills a shadow of it, which wants it as well.
DELETE FROM sync.due WHERE id = ANY(%(ids)s) AND NOT EXISTS (
    SELECT FROM sync.rebuild r WHERE (r.entity, r.sink, r.state) = (due.entity, due.sink, 'filling'))

-- name: put_together
-- Many small records become few full ones, each of one sink.
WITH taken AS (
    DELETE FROM sync.due WHERE entity = %(entity)s AND reason = %(reason)s
        AND (claimed_until IS NULL OR claimed_until < now()) RETURNING *
), named AS (
    SELECT sink, priority, key, row_number() OVER (PARTITION BY sink, priority ORDER BY key) - 1 AS n
    FROM (SELECT DISTINCT sink, priority, k AS key FROM taken, unnest(coalesce(keys, ARRAY[key])) k) k
)
INSERT INTO sync.due (entity, reason, keys, sink, revision, priority, attempts, error, message, first_at)
SELECT entity, reason, array_agg(named.key), t.sink, revision, t.priority, attempts, error, message, first_at
FROM (
    SELECT entity, reason, sink, priority, max(revision) AS revision, max(attempts) AS attempts, max(error) AS error,
        max(message) AS message, min(first_at) AS first_at FROM taken GROUP BY 1, 2, 3, 4
) t JOIN named ON named.sink IS NOT DISTINCT FROM t.sink AND named.priority = t.priority
GROUP BY n / %(keys_a_record)s, entity, reason, t.sink, revision, t.priority, attempts, error, message, first_at

-- name: keep_keys
UPDATE sync.due SET keys = %(keys)s::text[], attempts = attempts + 1, claimed_until = NULL, last_at = now(),
    not_before = now() + %(seconds)s * interval '1 s' WHERE id = %(id)s

-- name: postpone
-- Again after 1, 2, 4 … 60 s, with jitter.
UPDATE sync.due SET attempts = attempts + 1, claimed_until = NULL, last_at = now(), error = %(error)s,
    message = %(message)s,
    not_before = now() + least(60, power(2, least(attempts, 6))) * (0.75 + random() / 2) * interval '1 s'
WHERE id = ANY(%(ids)s)

-- name: park
-- A row that was discarded stays so while it is the same.
INSERT INTO sync.due (entity, reason, key, revision, priority, not_before, attempts, step, error, message, digest,
    basis, refused_by, sink)
SELECT r.* FROM (VALUES %s) r (entity, reason, key, revision, priority, not_before, attempts, step, error, message,
    digest, basis, refused_by, sink)
WHERE NOT EXISTS (SELECT FROM sync.due d
    WHERE (d.entity, d.key, d.reason) = (r.entity, r.key, 'discarded') AND d.digest = r.digest)
ON CONFLICT (entity, key, reason) WHERE key IS NOT NULL DO UPDATE SET revision = excluded.revision,
    attempts = CASE WHEN due.message = excluded.message THEN due.attempts + 1 ELSE 1 END, step = excluded.step,
    error = excluded.error, message = excluded.message, digest = excluded.digest, last_at = now(),
    claimed_until = NULL, not_before = 'infinity', waits_for = NULL, waits_key = NULL, undone_at = NULL,
    refused = NULL, basis = excluded.basis, priority = excluded.priority, refused_by = excluded.refused_by,
    -- refused by two outer sinks: it waits until both take it
    sink = CASE WHEN due.step = 'document' AND excluded.step = 'document' AND due.sink IS DISTINCT FROM excluded.sink
        THEN NULL ELSE excluded.sink END

-- name: time_tries
-- When parked rows are tried again, by what refused them and how often.
UPDATE sync.due SET not_before = now() + interval '1 s' * CASE
    WHEN error = %(missing)s THEN least(600, power(2, attempts))
    ELSE (0.75 + random() / 2) * least(%(longest)s, %(again)s * power(2, least(attempts, 12) - 1)) END
WHERE entity = %(entity)s AND reason = 'rejected' AND key = ANY(%(keys)s)
    AND CASE WHEN error = %(missing)s THEN attempts <= %(retries)s ELSE step IS DISTINCT FROM 'document' END

-- name: time_tries_of_files
-- A store may have its reasons for an hour: after 1, 2, 4 … 240 minutes, for as long as it does.
UPDATE sync.due SET not_before = now() + least(240, power(2, least(attempts, 9) - 1)) * interval '1 min'
WHERE entity = %(entity)s AND reason = 'rejected' AND error = ANY(%(errors)s) AND key = ANY(%(keys)s)

-- name: end_other_waits
-- Rows that now wait for something else. Of a dead letter the time runs on for as long as it waits for the same.
DELETE FROM sync.due d USING (VALUES %s) w (entity, reason, key, waits_for, waits_key)
WHERE d.entity = w.entity AND d.key = w.key AND d.reason IN ('rejected', 'parent', 'children')
    AND NOT (d.reason = 'children' AND w.reason = 'children')
    AND (d.waits_for, d.waits_key) IS DISTINCT FROM (w.waits_for, w.waits_key)

-- name: wait
INSERT INTO sync.due (entity, reason, key, revision, priority, step, error, waits_for, waits_key, message, digest)
SELECT w.* FROM (VALUES %s) w (entity, reason, key, revision, priority, step, error, waits_for, waits_key, message,
    digest)
WHERE NOT EXISTS (SELECT FROM sync.due d WHERE (d.entity, d.key, d.reason) = (w.entity, w.key, 'rejected'))
ON CONFLICT (entity, key, reason) WHERE key IS NOT NULL DO UPDATE SET waits_for = excluded.waits_for,
    waits_key = excluded.waits_key, message = excluded.message, digest = excluded.digest

-- name: set_digests_of_waiting
-- A dead letter that still waits may be of another row than before: the sweep compares it.
UPDATE sync.due d SET digest = w.digest FROM (VALUES %s) w (entity, key, digest)
WHERE d.entity = w.entity AND d.key = w.key AND d.reason = 'rejected' AND d.digest IS DISTINCT FROM w.digest

-- name: time_waits
-- A child that waits longer than `limit` s becomes a dead letter; a delete that waits for children is tried again.
UPDATE sync.due SET claimed_until = NULL, last_at = now(), attempts = attempts + 1,
    reason = CASE WHEN late THEN 'rejected' ELSE reason END,
    error = CASE WHEN late THEN 'ParentMissing' ELSE error END,
    not_before = CASE WHEN late THEN 'infinity' WHEN reason = 'parent' THEN first_at + %(limit)s * interval '1 s'
        ELSE now() + %(children_seconds)s * interval '1 s' END
FROM (
    SELECT id AS late_id,
        reason = 'rejected' OR (reason = 'parent' AND first_at + %(limit)s * interval '1 s' <= now()) AS late,
        reason = 'rejected' AS was_late
    FROM sync.due WHERE entity = %(entity)s AND key = ANY(%(keys)s) AND reason = ANY(%(parked)s)
) l
WHERE id = late_id
RETURNING key, step, message, attempts = 1, late AND NOT was_late

-- name: release
WITH gone AS (
    DELETE FROM sync.due WHERE entity = %(entity)s AND reason = ANY(%(reasons)s) AND key = ANY(%(keys)s)
        AND (NOT %(unchanged)s OR step IS DISTINCT FROM 'document')
        AND (%(sink)s::text IS NULL OR step IS DISTINCT FROM 'document' OR sink = %(sink)s) RETURNING key, step
)
INSERT INTO sync.event (entity, key, kind, step, revision)
SELECT %(entity)s, key, 'went through', step, %(revision)s FROM gone

-- name: queue_waiting
-- Whatever waits for these rows, in records of many keys. Only adds records: nobody's lock is waited for.
INSERT INTO sync.due (entity, reason, keys, revision, priority)
SELECT entity, %(reason)s, array_agg(key ORDER BY key), %(revision)s, %(priority)s
FROM (
    SELECT entity, key, (row_number() OVER (PARTITION BY entity ORDER BY key) - 1) / %(keys_a_record)s AS part
    FROM sync.due WHERE waits_for = %(entity)s AND waits_key = ANY(%(keys)s)
) w
GROUP BY entity, part

-- name: set_undone
UPDATE sync.due SET undone_at = now(), error = coalesce(refused[1], error), message = coalesce(refused[2], message),
    refused = NULL
WHERE entity = %(entity)s AND reason = ANY(%(reasons)s) AND step = 'document' AND key = ANY(%(keys)s)

-- name: set_not_undone
UPDATE sync.due SET refused = coalesce(refused, ARRAY[error, message]), error = %(error)s, last_at = now(),
    message = %(why)s || '; its document was refused: ' || coalesce(refused[2], message)
WHERE entity = %(entity)s AND reason = ANY(%(reasons)s) AND step = 'document' AND key = %(key)s

-- name: delete_discarded_anew
-- Discarded rows of which a later state is parked as well.
DELETE FROM sync.due d WHERE entity = %(entity)s AND reason = 'discarded' AND key = ANY(%(keys)s)
    AND EXISTS (SELECT FROM sync.due r WHERE (r.entity, r.key, r.reason) = (d.entity, d.key, 'rejected'))

-- name: take_back
UPDATE sync.due SET reason = 'rejected', discarded_at = NULL, discarded_by = NULL, discarded_why = NULL
WHERE entity = %(entity)s AND reason = 'discarded' AND key = ANY(%(keys)s)

-- name: discard
UPDATE sync.due SET reason = 'discarded', not_before = 'infinity', claimed_until = NULL, waits_for = NULL,
    waits_key = NULL, discarded_at = now(), discarded_by = %(by)s, discarded_why = %(why)s
WHERE entity = %(entity)s AND reason = 'rejected' AND key = ANY(%(keys)s)

-- name: wake_refused
UPDATE sync.due SET not_before = now() WHERE id IN (
    SELECT id FROM sync.due WHERE id = ANY(%(ids)s) AND not_before > now() AND step IS DISTINCT FROM 'document'
        AND reason = ANY (ARRAY['rejected', 'parent'])
    FOR UPDATE SKIP LOCKED
)

-- name: wake_repeating
-- A row that repeats another's value may pass once that one has changed, which no digest of its own shows.
UPDATE sync.due SET not_before = now() WHERE not_before > now() AND id IN (
    SELECT id FROM sync.due WHERE entity = %(entity)s AND reason = 'rejected' AND step = 'row'
        AND error = ANY (ARRAY['UniqueViolation', 'ExclusionViolation']) AND waits_for IS NULL
    ORDER BY last_at LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)

-- name: wake_untimed
-- Rows that wait for a file or a parent row have no timer in the end.
UPDATE sync.due SET not_before = now() WHERE id IN (
    SELECT id FROM sync.due WHERE entity = %(entity)s AND reason = 'rejected' AND not_before = 'infinity'
        AND (error = 'MediaMissing' OR waits_for IS NOT NULL)
    ORDER BY last_at LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)

-- name: take_back_times
-- The new side's clock has been set back: what waits by its former time waits no longer than it was meant to.
UPDATE sync.due SET
    not_before = CASE WHEN isfinite(not_before) THEN now() + greatest(not_before - last_at, interval '0')
        ELSE not_before END,
    last_at = now(), first_at = least(first_at, now()), claimed_until = NULL
WHERE id IN (SELECT id FROM sync.due WHERE last_at > now() FOR UPDATE SKIP LOCKED)
