#!/usr/bin/env bash
# Makes the logins that Strongroom connects with, members of the roles of roles.sql. Run once, after it, as
# a superuser: by the image's first start, or by hand with libpq's PGHOST and PGPASSWORD.
# Login and password stand in the URLs that Strongroom uses; they reach psql by its environment, since
# arguments are seen by every user of the host.
set -euo pipefail

read_url() { # NAME FILE: exports NAME_LOGIN and NAME_PASSWORD
    local url
    url=$(<"$2")
    if ! [[ $url =~ ^postgresql(\+psycopg2)?://([A-Za-z0-9_]+):([A-Za-z0-9_-]+)@ ]]; then
        echo "$2 holds no URL with a login and a password of letters, digits, _ and -" >&2
        exit 1
    fi
    export "$1_LOGIN=${BASH_REMATCH[2]}" "$1_PASSWORD=${BASH_REMATCH[3]}"
}

read_url MIGRATE "$MIGRATE_URL_FILE"
read_url API "$API_URL_FILE"
read_url WORKER "$WORKER_URL_FILE"
read_url SEQUENCER "$SEQUENCER_URL_FILE"

psql --no-psqlrc --quiet --single-transaction --set ON_ERROR_STOP=1 \
    --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\getenv migrate_login MIGRATE_LOGIN
\getenv migrate_password MIGRATE_PASSWORD
\getenv api_login API_LOGIN
\getenv api_password API_PASSWORD
\getenv worker_login WORKER_LOGIN
\getenv worker_password WORKER_PASSWORD
\getenv sequencer_login SEQUENCER_LOGIN
\getenv sequencer_password SEQUENCER_PASSWORD
CREATE ROLE :"migrate_login" LOGIN PASSWORD :'migrate_password' IN ROLE strongroom_owner;
CREATE ROLE :"api_login" LOGIN PASSWORD :'api_password' IN ROLE strongroom_service;
CREATE ROLE :"worker_login" LOGIN PASSWORD :'worker_password' IN ROLE strongroom_service;
CREATE ROLE :"sequencer_login" LOGIN PASSWORD :'sequencer_password' IN ROLE strongroom_sequencer;
-- Tables shall belong to the role, so that its login can be replaced.
ALTER ROLE :"migrate_login" SET role = strongroom_owner;
REVOKE CONNECT ON DATABASE :"DBNAME" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"DBNAME" TO strongroom_owner, strongroom_service, strongroom_sequencer;
SQL
