-- Indices that are filled beside the one behind their alias, and those that they have followed.
CREATE TABLE sync.rebuild (
    entity      text NOT NULL,
    index       text NOT NULL,
    former      text NOT NULL,               -- what was behind the alias when it was begun
    declared    jsonb NOT NULL,              -- what the entity's file said then
    state       text NOT NULL,               -- making, filling, done, removing
    position    text[],                      -- the last root that was filled
    filled      boolean NOT NULL DEFAULT false,
    rows        bigint NOT NULL DEFAULT 0,
    started_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    PRIMARY KEY (entity, index)
);
CREATE UNIQUE INDEX rebuild_under_way ON sync.rebuild (entity) WHERE state <> 'done';
