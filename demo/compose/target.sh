#!/bin/sh
# First start of the target container: the same roles and databases as demo/databases.py makes.
set -eu
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<SQL
CREATE ROLE sync_writer LOGIN PASSWORD '$DEMO_PASSWORD';
CREATE ROLE dagster LOGIN PASSWORD '$DEMO_PASSWORD';
CREATE DATABASE catalog OWNER sync_writer;
CREATE DATABASE dagster OWNER dagster;
SQL
