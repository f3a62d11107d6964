-- What the demo's editors committed, written in the same transactions. The product never reads it.
CREATE SCHEMA demo;

CREATE TABLE demo.edit_log (
    id         bigserial PRIMARY KEY,
    content_id bigint NOT NULL,
    kind       text NOT NULL,
    version    integer NOT NULL,
    deleted    boolean NOT NULL,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- lets the observer ask for what committed since its last look, in whatever order
    xid        xid8 NOT NULL DEFAULT pg_current_xact_id()
);
CREATE INDEX edit_log_xid ON demo.edit_log (xid);
