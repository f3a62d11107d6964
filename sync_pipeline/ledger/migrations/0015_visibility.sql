-- What decides which rows the monolith shows for an entity: definitions of the views that its query reads, and, where
-- its tables declare policies="complete", policies and our role's memberships. As a person last accepted them.
CREATE TABLE sync.visibility (
    entity text PRIMARY KEY,
    declared text NOT NULL,      -- digest of the query and the tables that the entity's file names
    shown jsonb NOT NULL,        -- definitions, by what they define
    accepted_at timestamptz NOT NULL DEFAULT now(),
    accepted_by text NOT NULL    -- empty for what was found when the entity was first opened
);
