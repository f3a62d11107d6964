-- The identity of this ledger, so that what we own outside of it (slots, publications, outboxes, indices, buckets,
-- Dagster runs) can bear the name of its owner, and a second deployment notices that it is not its own.
CREATE TABLE sync.ledger_identity (
    id       text NOT NULL CHECK (id ~ '^[0-9a-f]{8}$'),
    made_at  timestamptz NOT NULL DEFAULT now(),
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one)
);
INSERT INTO sync.ledger_identity (id) VALUES (left(replace(gen_random_uuid()::text, '-', ''), 8));
