-- The engine's role on the monolith: it reads tables, now and those to come, and nothing else.
GRANT SELECT ON ALL TABLES IN SCHEMA public TO sync_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE monolith IN SCHEMA public GRANT SELECT ON TABLES TO sync_reader;
