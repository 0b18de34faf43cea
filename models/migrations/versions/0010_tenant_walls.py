"""A second wall between tenants: a role that sees the rows of the tenants that its transaction speaks for."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# usher_tenant is what serves requests that speak for a tenant: a transaction names the tenants in the setting
# `usher.tenants`, as PostgreSQL writes an array, and sees no row of another. It may do less than usher_app in every
# respect, so whoever can become that can become this; servers that are set up already need nobody's hands.
_ROLE = """
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'usher_tenant') THEN
        BEGIN
            CREATE ROLE usher_tenant NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
        END;
    END IF;
    IF NOT pg_has_role('usher_app', 'usher_tenant', 'MEMBER') THEN
        BEGIN
            GRANT usher_tenant TO usher_app;
        -- Another database of the server grants the same, or an administrator did it in another way.
        EXCEPTION WHEN insufficient_privilege OR unique_violation OR internal_error THEN NULL;
        END;
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO usher_tenant', current_schema());
END
$$
"""

# The tables that usher_tenant may touch, and how.
_TABLES = {
    **dict.fromkeys(("users", "groups", "membership", "identifier"), "SELECT, INSERT, UPDATE, DELETE"),
    **dict.fromkeys(("job", "invitation"), "SELECT, INSERT, UPDATE"),
    "audit_event": "SELECT, INSERT",
    "deferred_request": "SELECT",
    "tenant": "SELECT (id, name, invitations, invitation_delay_seconds)",
    "audit_seal": "SELECT",
    "audit_leaves": "SELECT",
}
_OF = {"tenant": "id", "audit_seal": "stream", "audit_leaves": "stream"}
"""The column that says whose a row is, where it is not `tenant_id`."""

# As a condition on each row it costs a statement that an index leads to one row a microsecond; as one that an index
# could answer (`= ANY` of an array) it costs ten times that. Without the setting it is NULL: no row.
_POLICY = "strpos(current_setting('usher.tenants', true), {column}::text) > 0"

# A policy comes before every condition that could tell of a row what it is, and PostgreSQL takes those on JSON for
# such: behind a policy no index on JSON is used, and a search reads every user of the tenant. So searches read views,
# which are no such barrier, with the wall in them. Whoever is usher_app sees through.
_TENANTS = """
CREATE FUNCTION usher_tenants() RETURNS uuid[]
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(current_setting('usher.tenants', true), '')::uuid[]
"""
_WITHIN = "((SELECT pg_has_role('usher_app', 'USAGE')) OR tenant_id = ANY ((SELECT usher_tenants())::uuid[]))"
_VIEWS = {
    "tenant_users": """
        SELECT tenant_id, id, external_id, work_email_keys, doc, version, created_at, last_modified FROM users WHERE
    """,
    "tenant_waiting_users": """
        SELECT tenant_id, resource_id AS id, payload ->> 'external_id' AS external_id,
               payload -> 'work_email_keys' AS work_email_keys, payload -> 'doc' AS doc, 1 AS version,
               staged_at AS created_at, staged_at AS last_modified
          FROM job WHERE kind = 'user.create' AND state IN ('staged', 'running', 'retry', 'dead') AND
    """,
    "tenant_groups": """
        SELECT tenant_id, id, external_id, doc, version, created_at, last_modified FROM groups WHERE
    """,
    "tenant_audit_events": "SELECT * FROM audit_event WHERE",
}


def upgrade() -> None:
    op.execute(_ROLE)
    op.execute(_TENANTS)
    for table, may in _TABLES.items():
        condition = _POLICY.format(column=_OF.get(table, "tenant_id"))
        # Who spans tenants by nature sees all: the worker, pages, commands, and what works on the audit log.
        op.execute(f"CREATE POLICY everything ON {table} TO usher_app, usher_maintenance USING (true)")
        op.execute(f"CREATE POLICY of_tenants ON {table} TO usher_tenant USING ({condition})")
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"GRANT {may} ON {table} TO usher_tenant")
    op.execute("GRANT SELECT ON audit_key TO usher_tenant")  # public keys, the same for everybody
    for view, query in _VIEWS.items():
        op.execute(f"CREATE VIEW {view} AS {query} {_WITHIN}")
        op.execute(f"GRANT SELECT ON {view} TO usher_app, usher_tenant")
    op.execute("ALTER VIEW tenant_audit_events OWNER TO usher_maintenance")
    op.execute("ALTER VIEW directory_user SET (security_invoker = true)")


def downgrade() -> None:
    op.execute("ALTER VIEW directory_user RESET (security_invoker)")
    op.execute(f"DROP VIEW {', '.join(_VIEWS)}")
    op.execute("REVOKE ALL ON audit_key FROM usher_tenant")
    for table in _TABLES:
        op.execute(f"REVOKE ALL ON {table} FROM usher_tenant")
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
        op.execute(f"DROP POLICY everything ON {table}")
        op.execute(f"DROP POLICY of_tenants ON {table}")
    op.execute("DROP FUNCTION usher_tenants()")
    op.execute("DO $$ BEGIN EXECUTE format('REVOKE USAGE ON SCHEMA %I FROM usher_tenant', current_schema()); END $$")
    # The role stays: another database of the same server may use it.
