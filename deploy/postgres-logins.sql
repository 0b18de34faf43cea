-- Roles and logins of a new database server, run by psql once, before the first `usher migrate`.
-- The environment variable POSTGRES_SERVICE_PASSWORD holds the password of the login that api and worker use.
\set ON_ERROR_STOP on
\getenv service_password POSTGRES_SERVICE_PASSWORD

-- What the application may do: everything but change or delete audit events. The migrations grant it its rights.
CREATE ROLE usher_app NOLOGIN;
-- Owns the audit table.
CREATE ROLE usher_maintenance NOLOGIN;
-- The login of api and worker can become usher_app and nobody else.
CREATE ROLE usher_service LOGIN NOINHERIT PASSWORD :'service_password' IN ROLE usher_app;
-- The login that migrates is whoever runs this; PostgreSQL lets it become the two roles.
GRANT usher_app, usher_maintenance TO CURRENT_USER;
