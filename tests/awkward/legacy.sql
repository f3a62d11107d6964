-- What grew in twenty years, by many hands. Hardly a table has a stamp, and no two name their keys alike.
CREATE SCHEMA "Old Vault";

CREATE TABLE country (
    code char(2) PRIMARY KEY,
    name text NOT NULL
);

-- codes were typed by hand: any text there is
CREATE TABLE label (
    code     text PRIMARY KEY,
    name     text,
    story    text,
    founded  bigint,
    country  char(2) REFERENCES country,
    state    char(1) NOT NULL DEFAULT 'D',
    logo     bigint  -- of asset, by agreement
);

-- P is published, D a draft, X is deleted
CREATE TABLE "Old Vault"."Film" (
    "Id"    uuid PRIMARY KEY,
    "Title" text,
    "Body"  text,
    "Label" text REFERENCES label (code) ON UPDATE CASCADE ON DELETE SET NULL,
    "State" char(1) NOT NULL DEFAULT 'D',
    "Extra" jsonb,  -- {"poster": 7, "stills": ["8", 9], "editions": [{"lang": "de", "name": "…"}]}
    "Gross" bigint,
    "Budget" numeric,
    "Score" numeric(24, 10)
);
CREATE INDEX ON "Old Vault"."Film" ("Label");

-- a film cut down becomes a clip, under the same id
CREATE TABLE clip (
    id      uuid PRIMARY KEY,
    caption text,
    script  text,
    label   text REFERENCES label (code) ON UPDATE CASCADE ON DELETE SET NULL,
    state   char(1) NOT NULL DEFAULT 'D',
    extra   jsonb
);
CREATE INDEX ON clip (label);

-- of films and clips; no key at all, and the same tag may be there twice
CREATE TABLE tag (
    title uuid NOT NULL,
    tag   text
);
CREATE INDEX ON tag (title);

CREATE TABLE place (
    id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    title uuid NOT NULL,
    rank  integer,
    city  text
);
CREATE INDEX ON place (title);

-- a file of the bucket; many rows may name one
CREATE SEQUENCE revision;
CREATE TABLE asset (
    id      bigint PRIMARY KEY,
    path    text NOT NULL,
    revised bigint NOT NULL DEFAULT nextval('revision')
);

-- its stamp goes back when a backup is played in
CREATE TABLE airing (
    channel text,
    slot    timestamptz,
    hd      boolean,
    title   uuid,
    note    text,
    price   numeric(38, 12),
    watched bigint,
    poster  bigint,
    touched timestamp,
    PRIMARY KEY (channel, slot, hd)
);

-- two shelves that count from one each; both draw a number when they change
CREATE SEQUENCE change;
CREATE TABLE book (
    no      bigint PRIMARY KEY,
    name    text,
    changed bigint NOT NULL DEFAULT nextval('change')
);
CREATE TABLE "Old Vault"."Disc" (
    "No"      bigint PRIMARY KEY,
    "Name"    text,
    "Changed" bigint NOT NULL DEFAULT nextval('change')
);

-- of a book or of a disc
CREATE TABLE scene (
    id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    book bigint REFERENCES book ON DELETE CASCADE ON UPDATE CASCADE,
    disc bigint REFERENCES "Old Vault"."Disc" ON DELETE CASCADE ON UPDATE CASCADE,
    note text
);

-- the lending desk is the newest: its rows count their changes, and its own code tells of each, some of it beforehand.
-- Of a loan's three stamps any one moves, and at times none; `back` is UTC
CREATE SEQUENCE "Old Vault"."Turn";
CREATE TABLE branch (
    code text PRIMARY KEY,
    name text,
    turn bigint NOT NULL DEFAULT nextval('"Old Vault"."Turn"')
);
CREATE TABLE loan (
    branch   text,
    number   integer,
    borrower text,
    fee      numeric(12, 2),
    lent     timestamptz DEFAULT clock_timestamp(),
    back     timestamp,
    turn     bigint,
    version  bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (branch, number)
);
CREATE TABLE reminder (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    branch text,
    loan   integer,
    note   text,
    sent   timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE "Old Vault"."Told" (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    aggregate_type text NOT NULL, aggregate_id text NOT NULL, event_type text NOT NULL, version bigint,
    processed_at timestamptz, attempts integer NOT NULL DEFAULT 0, last_error text
);
CREATE INDEX ON "Old Vault"."Told" (aggregate_type, id) WHERE processed_at IS NULL;
CREATE INDEX ON "Old Vault"."Told" (processed_at) WHERE processed_at IS NOT NULL;

GRANT USAGE ON SCHEMA "Old Vault" TO sync_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA "Old Vault" TO sync_reader;
GRANT SELECT ON country, label, clip, tag, place, asset, airing, book, scene, branch, loan, reminder TO sync_reader;
GRANT UPDATE (processed_at, attempts, last_error), DELETE ON "Old Vault"."Told" TO sync_reader;
GRANT SELECT ON SEQUENCE change, "Old Vault"."Turn" TO sync_reader;
