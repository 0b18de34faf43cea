-- Roles and logins of a new database server, run by psql once, before the first `usher migrate`.
-- The environment variable POSTGRES_SERVICE_PASSWORD holds the password of the login that api and worker use.
\set ON_ERROR_STOP on
\getenv service_password POSTGRES_SERVICE_PASSWORD

-- What the application may do: everything but change or delete audit events. The migrations grant it its rights.
CREATE ROLE usher_app NOLOGIN;
-- What requests that speak for a tenant run as: it sees the rows of the tenants that its transaction names.
CREATE ROLE usher_tenant NOLOGIN;
-- Owns the audit table.
CREATE ROLE usher_maintenance NOLOGIN;
-- The login of api and worker can become usher_app and usher_tenant, and nobody else.
CREATE ROLE usher_service LOGIN NOINHERIT PASSWORD :'service_password' IN ROLE usher_app, usher_tenant;
-- The login that migrates is whoever runs this; PostgreSQL lets it become the three roles.
GRANT usher_app, usher_tenant, usher_maintenance TO CURRENT_USER;
