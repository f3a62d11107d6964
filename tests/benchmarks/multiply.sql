-- Many contents from a sample: the server copies rows and tags until there are enough. Ids grow with created_at,
-- as in the sample; files stay with the sample.
SET session_replication_role = replica;

CREATE TEMP TABLE copies AS
    WITH sample AS (
        SELECT id, row_number() OVER (ORDER BY id) - 1 AS place, count(*) OVER () AS size FROM content
    ), wanted AS (
        SELECT sample.*, ceil(%(rows)s::numeric / size - 1)::bigint AS times, (SELECT max(id) FROM content) AS last
        FROM sample
    )
    SELECT id AS sample_id, last + 1 + place * times + n AS id
    FROM wanted, LATERAL generate_series(0, times - 1) n
    WHERE place * times + n < %(rows)s - size
    ORDER BY 2;

INSERT INTO content (id, kind, title, body, author_id, country, city, street, zip, status, price, rating, attrs,
                     view_count, version, created_at, updated_at, deleted_at)
    SELECT m.id, kind, title || ' ' || m.id, body, author_id, country, city, street, zip, status, price, rating, attrs,
           view_count, version, created_at, updated_at, deleted_at
    FROM copies m JOIN content c ON c.id = m.sample_id ORDER BY m.id;

INSERT INTO content_tags (content_id, tag)
    SELECT m.id, tag FROM copies m JOIN content_tags t ON t.content_id = m.sample_id ORDER BY m.id, tag;

SELECT setval(pg_get_serial_sequence('content', 'id'), (SELECT max(id) FROM content));
