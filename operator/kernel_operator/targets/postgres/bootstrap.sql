-- Run once by an administrator (a superuser), with psql, against the database `postgres`:
--
--   KERNEL_OPERATOR_PASSWORD=... KERNEL_CDC_PASSWORD=... KERNEL_GATEWAY_PASSWORD=... psql -X -d postgres -f bootstrap.sql
--
-- It makes what the operator, who is no superuser, can't make: the roles with attributes of their own,
-- the database, and the table that migrations are recorded in. Everything else is the operator's work.
-- Running it again is harmless: it puts right what differs and sets the passwords anew. A password may
-- be given as a SCRAM-SHA-256 verifier instead of plain text. Passwords may also come as the psql
-- variables operator_password, cdc_password and gateway_password, but never put them on a command line.

\set ON_ERROR_STOP on
\set QUIET on
\if :{?operator_password} \else
  \getenv operator_password KERNEL_OPERATOR_PASSWORD
\endif
\if :{?cdc_password} \else
  \getenv cdc_password KERNEL_CDC_PASSWORD
\endif
\if :{?operator_password} \else
  DO $$BEGIN RAISE EXCEPTION 'bootstrap.sql: set KERNEL_OPERATOR_PASSWORD in the environment'; END$$;
\endif
\if :{?cdc_password} \else
  DO $$BEGIN RAISE EXCEPTION 'bootstrap.sql: set KERNEL_CDC_PASSWORD in the environment'; END$$;
\endif

\if :{?gateway_password} \else
  \getenv gateway_password KERNEL_GATEWAY_PASSWORD
\endif
\if :{?gateway_password} \else
  DO $$BEGIN RAISE EXCEPTION 'bootstrap.sql: set KERNEL_GATEWAY_PASSWORD in the environment'; END$$;
\endif

DO $$
BEGIN
  IF current_setting('server_version_num')::integer < 180000 OR current_setting('wal_level') <> 'logical' THEN
    RAISE EXCEPTION 'bootstrap.sql: the server must be PostgreSQL 18 or later, with wal_level = logical';
  END IF;
END
$$;

-- A password must reach neither the server's log nor pg_stat_statements.
SET log_statement = 'none';
SET log_min_duration_statement = -1;
SET log_min_error_statement = 'panic';
SET pg_stat_statements.track = 'none';
SET password_encryption = 'scram-sha-256';
SET client_min_messages = warning;

SELECT format('CREATE ROLE %I', wanted)
FROM unnest(ARRAY['kernel_operator', 'kernel_cdc', 'kernel_cross', 'kernel_app', 'kernel_publisher', 'kernel_gateway']) AS wanted
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = wanted)
\gexec

-- CREATEROLE since PostgreSQL 16 reaches only roles on which the creator has ADMIN: those it made, and
-- the two it is given below. So the operator can neither alter nor become kernel_cdc or kernel_cross.
ALTER ROLE kernel_operator WITH LOGIN CREATEROLE NOSUPERUSER NOCREATEDB NOREPLICATION NOBYPASSRLS NOINHERIT
  PASSWORD :'operator_password';
ALTER ROLE kernel_cdc WITH LOGIN REPLICATION BYPASSRLS NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT
  PASSWORD :'cdc_password';
ALTER ROLE kernel_gateway WITH LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS INHERIT
  PASSWORD :'gateway_password';
ALTER ROLE kernel_cross WITH NOLOGIN BYPASSRLS NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOINHERIT;
ALTER ROLE kernel_app WITH NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT;
ALTER ROLE kernel_publisher WITH NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT;

-- Who is a member of what is said here and nowhere else: memberships that others added are taken away. At once: those
-- who are at work notice nothing.
BEGIN;
SELECT format('REVOKE %I FROM %I GRANTED BY %I CASCADE', role.rolname, member.rolname, grantor.rolname)
FROM pg_catalog.pg_auth_members AS m
JOIN pg_catalog.pg_roles AS role ON role.oid = m.roleid
JOIN pg_catalog.pg_roles AS member ON member.oid = m.member
JOIN pg_catalog.pg_roles AS grantor ON grantor.oid = m.grantor
WHERE role.rolname IN ('kernel_cdc', 'kernel_cross', 'kernel_operator', 'kernel_gateway')
  OR member.rolname IN ('kernel_cdc', 'kernel_cross', 'kernel_gateway', 'kernel_app', 'kernel_publisher')
\gexec
GRANT kernel_app, kernel_publisher TO kernel_operator WITH ADMIN TRUE, INHERIT FALSE, SET FALSE;
GRANT kernel_app, kernel_publisher TO kernel_gateway WITH INHERIT TRUE, SET FALSE;
COMMIT;

ALTER ROLE kernel_operator SET search_path = pg_catalog;
ALTER ROLE kernel_operator SET createrole_self_grant = '';
ALTER ROLE kernel_operator SET statement_timeout = '60s';
ALTER ROLE kernel_operator SET lock_timeout = '5s';
ALTER ROLE kernel_operator SET idle_in_transaction_session_timeout = '60s';
ALTER ROLE kernel_operator SET timezone = 'UTC';
ALTER ROLE kernel_cdc SET search_path = pg_catalog;
ALTER ROLE kernel_cdc SET lock_timeout = '5s';
ALTER ROLE kernel_cdc SET timezone = 'UTC';
ALTER ROLE kernel_gateway SET search_path = pg_catalog;
ALTER ROLE kernel_gateway SET statement_timeout = '30s';
ALTER ROLE kernel_gateway SET lock_timeout = '5s';
ALTER ROLE kernel_gateway SET idle_in_transaction_session_timeout = '30s';
ALTER ROLE kernel_gateway SET timezone = 'UTC';

-- The built-in collation is the same on every operating system: no index breaks with a new libc.
SELECT $$CREATE DATABASE platform TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'$$
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = 'platform')
\gexec
REVOKE ALL ON DATABASE platform FROM PUBLIC;
GRANT CONNECT, CREATE ON DATABASE platform TO kernel_operator;
GRANT CONNECT ON DATABASE platform TO kernel_cdc, kernel_app;

\connect platform
SET client_min_messages = warning;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE kernel_operator REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- Migrations lock this table rather than take an advisory lock: anyone who is logged in may hold an
-- advisory lock of any number, and a module must not be able to stop an upgrade.
CREATE SCHEMA IF NOT EXISTS kernel;
ALTER SCHEMA kernel OWNER TO kernel_operator;
CREATE TABLE IF NOT EXISTS kernel.schema_migrations (
  number integer PRIMARY KEY CHECK (number > 0),
  name text NOT NULL,
  checksum text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
ALTER TABLE kernel.schema_migrations OWNER TO kernel_operator;

\ir cross.sql
