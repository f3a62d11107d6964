-- What the adapters do, said once in SQL: the rows of one kind as the new side has them.
SELECT c.id, c.title AS header, c.body, a.name AS author,
       CASE WHEN coalesce(c.country, c.city, c.street, c.zip) IS NOT NULL
            THEN jsonb_build_object('country', c.country, 'city', c.city, 'street', c.street, 'zip', c.zip) END AS address,
       coalesce(t.tags, '{}') AS tags, (c.attrs ->> 'duration')::bigint AS seconds, c.status = 'published' AS is_public,
       c.price, c.rating, c.attrs, coalesce(m.cover[:1], '{}') AS cover, coalesce(m.files, '{}') AS files,
       c.version, c.created_at, c.updated_at
FROM content c
LEFT JOIN authors a ON a.id = c.author_id
LEFT JOIN (SELECT content_id, array_agg(tag ORDER BY tag COLLATE "C") AS tags FROM content_tags GROUP BY content_id) t
    ON t.content_id = c.id
LEFT JOIN (SELECT content_id, array_agg(bucket_key ORDER BY id) FILTER (WHERE kind = 'cover') AS cover,
                  array_agg(bucket_key ORDER BY id) FILTER (WHERE kind <> 'cover') AS files
           FROM media_files GROUP BY content_id) m ON m.content_id = c.id
WHERE c.kind = {kind} AND c.deleted_at IS NULL
