#!/bin/sh
# First start of the legacy container: the same roles and tables as demo/databases.py makes.
set -eu
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<SQL
CREATE ROLE monolith LOGIN PASSWORD '$DEMO_PASSWORD';
CREATE ROLE sync_reader LOGIN PASSWORD '$DEMO_PASSWORD';
GRANT pg_read_all_stats TO sync_reader;
CREATE DATABASE monolith OWNER monolith;
REVOKE TEMPORARY ON DATABASE monolith FROM PUBLIC;
SQL
for file in legacy reader edit_log; do
    psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname monolith \
        --command "SET ROLE monolith" --file "/demo/sql/$file.sql"
done
