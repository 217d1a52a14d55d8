-- What an administrator runs once, and may run again: the database, its two service users, their rights.
-- Every statement ends with a semicolon at the end of its line. Needs ClickHouse 25 or later (grants on
-- user names by prefix), and access control by SQL (access_management) for whoever runs it.
CREATE DATABASE IF NOT EXISTS analytics;
CREATE USER IF NOT EXISTS kernel_operator IDENTIFIED WITH sha256_hash BY '{operator_password_sha256}';
ALTER USER kernel_operator IDENTIFIED WITH sha256_hash BY '{operator_password_sha256}';
CREATE USER IF NOT EXISTS cdc_writer IDENTIFIED WITH sha256_hash BY '{writer_password_sha256}';
ALTER USER cdc_writer IDENTIFIED WITH sha256_hash BY '{writer_password_sha256}';
GRANT SELECT ON analytics.* TO kernel_operator WITH GRANT OPTION;
GRANT SHOW, CREATE TABLE, CREATE VIEW, DROP TABLE, DROP VIEW, ALTER ADD COLUMN, ALTER TTL, ALTER MATERIALIZE TTL, ALTER SETTINGS, ALTER MODIFY COMMENT, ALTER DELETE, ALTER VIEW, OPTIMIZE ON analytics.* TO kernel_operator;
GRANT CREATE ROW POLICY, ALTER ROW POLICY, DROP ROW POLICY, SHOW ROW POLICIES ON analytics.* TO kernel_operator;
GRANT TABLE ENGINE ON ReplacingMergeTree TO kernel_operator;
GRANT CREATE USER, ALTER USER, DROP USER ON tenant_* TO kernel_operator;
GRANT SHOW USERS, SHOW ROLES ON *.* TO kernel_operator;
GRANT SELECT ON system.users TO kernel_operator;
GRANT SELECT ON system.grants TO kernel_operator;
GRANT SELECT ON system.row_policies TO kernel_operator;
GRANT SELECT ON system.mutations TO kernel_operator;
GRANT SELECT ON system.tables TO kernel_operator;
GRANT SELECT ON system.columns TO kernel_operator;
GRANT SELECT ON system.parts TO kernel_operator;
GRANT INSERT, SELECT ON analytics.* TO cdc_writer;
REVOKE OPTIMIZE ON analytics.* FROM cdc_writer;
