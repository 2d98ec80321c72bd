-- Run once by a database administrator, in an empty database made for Strongroom, before
-- `strongroom migrate`. Logins that Strongroom connects with are made members of these roles:
--   CREATE ROLE strongroom_api LOGIN PASSWORD '…' IN ROLE strongroom_service;
-- Idempotent.
DO $$
DECLARE role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['strongroom_owner', 'strongroom_service', 'strongroom_sequencer']
    LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE', role_name);
        END IF;
    END LOOP;
    EXECUTE format('REVOKE CREATE, TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
END
$$;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO strongroom_owner;
GRANT USAGE ON SCHEMA public TO strongroom_service, strongroom_sequencer;
CREATE EXTENSION IF NOT EXISTS pg_trgm;
-- Behind row-level security PostgreSQL gives an index only to functions that it may trust with rows of others.
-- Without this ILIKE is none of them, and a search by name reads every document of its department. What it
-- could let out, an error that depends on a hidden name, needs SQL of one's own, and against that the policies
-- are no wall anyway (docs/access.md). Takes a superuser; where there is none, searches are slow, and right.
DO $$
BEGIN
    ALTER FUNCTION pg_catalog.texticlike(text, text) LEAKPROOF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING 'searches by name will use no index';
END
$$;
