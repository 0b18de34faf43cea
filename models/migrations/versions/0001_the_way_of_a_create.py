"""The way of a create: tenants, tokens, identifiers, the ledger, users, invitations, audit events."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Two roles. usher_app is what api and worker become after connecting: it can add audit events but neither
# change nor delete them. usher_maintenance owns the audit table and its partitions. Roles belong to the
# whole server, so another database there may have made them already.
_ROLES = """
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'usher_app') THEN
        BEGIN
            CREATE ROLE usher_app NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
        END;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'usher_maintenance') THEN
        BEGIN
            CREATE ROLE usher_maintenance NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
        END;
    END IF;
    -- Whoever may create roles is not thereby allowed to become them (PostgreSQL 16 and later); where an
    -- administrator made the roles and the grants beforehand, there is nothing to grant.
    BEGIN
        EXECUTE format('GRANT usher_app, usher_maintenance TO %I', current_user);
    EXCEPTION WHEN insufficient_privilege THEN NULL;
    END;
    EXECUTE format('GRANT CREATE, USAGE ON SCHEMA %I TO usher_maintenance', current_schema());
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO usher_app', current_schema());
END
$$
"""

# Text as case-insensitive attributes are compared (RFC 7644 §3.4.2.2), and the same for a whole document.
_FOLD = """
CREATE FUNCTION usher_fold(value text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN lower(normalize(value, NFC))
"""
# A combining mark behind an escape must not merge with its last letter (a line feed and an acute accent would
# become "\ń", which is no JSON): a grapheme joiner, which nothing merges with, stands behind every escape.
_FOLD_JSON = r"""
CREATE FUNCTION usher_fold_json(value jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN lower(normalize(
        CASE WHEN strpos(value::text, '\') = 0 THEN value::text
             ELSE regexp_replace(value::text, '(\\u[0-9a-f]{4}|\\.)', '\1' || U&'\034F', 'g') END,
        NFC))::jsonb
"""

_TABLES = [
    """
    CREATE TABLE tenant (
        id uuid PRIMARY KEY,
        name text NOT NULL UNIQUE,
        display_name text NOT NULL,
        sign_in_url text,
        branding jsonb NOT NULL DEFAULT '{}',
        invitations boolean NOT NULL DEFAULT true,
        invitation_delay_seconds integer NOT NULL DEFAULT 0,
        created_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    """
    CREATE TABLE token (
        id text PRIMARY KEY,
        tenant_id uuid NOT NULL REFERENCES tenant (id),
        label text NOT NULL,
        secret_hash bytea NOT NULL,
        scopes text[] NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL,
        revoked_at timestamptz,
        last_used_at timestamptz
    )
    """,
    "CREATE INDEX token_tenant ON token (tenant_id)",
    """
    CREATE TABLE identifier (
        tenant_id uuid NOT NULL,
        kind text NOT NULL,
        value_key text NOT NULL,
        resource_id uuid NOT NULL,
        PRIMARY KEY (tenant_id, kind, value_key)
    )
    """,
    """
    CREATE TABLE users (
        tenant_id uuid NOT NULL,
        id uuid NOT NULL,
        external_id text,
        work_email_keys text[] NOT NULL,
        active boolean NOT NULL,
        doc jsonb NOT NULL,
        version integer NOT NULL DEFAULT 1,
        created_at timestamptz NOT NULL,
        last_modified timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, id)
    )
    """,
    "CREATE INDEX users_external_id ON users (tenant_id, external_id)",
    "CREATE INDEX users_work_email ON users (tenant_id, (work_email_keys[1]))",
    "CREATE INDEX users_further_work_emails ON users USING gin (work_email_keys) WHERE cardinality(work_email_keys) > 1",
    """
    CREATE TABLE job (
        id uuid PRIMARY KEY,
        tenant_id uuid NOT NULL,
        kind text NOT NULL,
        queue text NOT NULL,
        state text NOT NULL DEFAULT 'staged'
            CONSTRAINT job_state CHECK (state IN ('staged', 'running', 'retry', 'done', 'dead', 'cancelled')),
        resource_id uuid,
        payload jsonb,
        run_at timestamptz NOT NULL DEFAULT now(),
        attempts smallint NOT NULL DEFAULT 0,
        lease_token uuid,
        lease_until timestamptz,
        error_code text,
        error_detail text,
        correlation_id uuid NOT NULL,
        trace_context text,
        staged_at timestamptz NOT NULL DEFAULT now(),
        started_at timestamptz,
        finished_at timestamptz
    )
    """,
    "CREATE INDEX job_due ON job (queue, tenant_id, run_at, id) WHERE state IN ('staged', 'retry')",
    "CREATE INDEX job_leased ON job (lease_until) WHERE state = 'running'",
    "CREATE INDEX job_dead ON job (kind, tenant_id) WHERE state = 'dead'",
    "CREATE INDEX job_cancelled ON job (id) WHERE state = 'cancelled'",
    """
    CREATE INDEX job_waiting_id ON job (tenant_id, resource_id)
        WHERE kind = 'user.create' AND state IN ('staged', 'running', 'retry', 'dead')
    """,
    """
    CREATE INDEX job_waiting_other ON job (staged_at)
        WHERE kind <> 'user.create' AND state IN ('staged', 'running', 'retry', 'dead')
    """,
    """
    CREATE INDEX job_waiting_external_id ON job (tenant_id, (payload ->> 'external_id'))
        WHERE kind = 'user.create' AND state IN ('staged', 'running', 'retry', 'dead')
    """,
    """
    CREATE INDEX job_waiting_work_email ON job (tenant_id, (payload -> 'work_email_keys' ->> 0))
        WHERE kind = 'user.create' AND state IN ('staged', 'running', 'retry', 'dead')
    """,
    """
    CREATE INDEX job_waiting_further_work_emails ON job (tenant_id)
        WHERE kind = 'user.create' AND state IN ('staged', 'running', 'retry', 'dead')
          AND jsonb_array_length(payload -> 'work_email_keys') > 1
    """,
    """
    CREATE TABLE invitation (
        id uuid PRIMARY KEY,
        tenant_id uuid NOT NULL,
        user_id uuid NOT NULL,
        generation integer NOT NULL DEFAULT 1,
        email text NOT NULL,
        state text NOT NULL DEFAULT 'pending'
            CONSTRAINT invitation_state CHECK (state IN ('pending', 'sending', 'sent', 'accepted', 'expired', 'failed')),
        token_hash bytea,
        message_id text,
        error_code text,
        error_detail text,
        created_at timestamptz NOT NULL DEFAULT now(),
        sent_at timestamptz,
        expires_at timestamptz,
        accepted_at timestamptz
    )
    """,
    "CREATE UNIQUE INDEX invitation_user ON invitation (tenant_id, user_id, generation)",
    "CREATE UNIQUE INDEX invitation_token ON invitation (token_hash) WHERE token_hash IS NOT NULL",
    "CREATE INDEX invitation_expiry ON invitation (expires_at) WHERE state = 'sent'",
    """
    CREATE TABLE audit_event (
        occurred_at timestamptz NOT NULL DEFAULT now(),
        id uuid NOT NULL,
        xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
        tenant_id uuid,
        action text NOT NULL,
        phase text NOT NULL,
        outcome text NOT NULL,
        reason text,
        severity smallint NOT NULL,
        actor_type text NOT NULL,
        actor_id text,
        actor_label text,
        targets jsonb NOT NULL,
        target_type text GENERATED ALWAYS AS (targets -> 0 ->> 'type') STORED,
        target_id text GENERATED ALWAYS AS (targets -> 0 ->> 'id') STORED,
        correlation_id uuid NOT NULL,
        job_id uuid,
        context jsonb,
        diff jsonb,
        changed text[],
        schema_version smallint NOT NULL DEFAULT 1,
        PRIMARY KEY (occurred_at, id)
    ) PARTITION BY RANGE (occurred_at)
    """,
    "CREATE INDEX audit_event_tenant ON audit_event (tenant_id, occurred_at DESC, id DESC)",
    "CREATE INDEX audit_event_target ON audit_event (tenant_id, target_id, occurred_at DESC)",
    "CREATE INDEX audit_event_correlation ON audit_event (correlation_id)",
    "CREATE INDEX audit_event_action ON audit_event (action, occurred_at DESC, id DESC)",
    """
    CREATE INDEX audit_event_targets ON audit_event USING gin (usher_fold_json(targets) jsonb_path_ops)
        WITH (gin_pending_list_limit = 1024)
    """,
    "CREATE TABLE audit_event_default PARTITION OF audit_event DEFAULT",
]

# One truth for reads: applied users, and accepted creates that no worker has applied yet. A create that
# ended in `dead` was answered with 201, so it stays readable until it is retried or cancelled.
_VIEW = """
CREATE VIEW directory_user AS
SELECT tenant_id, id, external_id, work_email_keys, doc, version, created_at, last_modified, false AS waiting
  FROM users
UNION ALL
SELECT tenant_id, resource_id, payload ->> 'external_id',
       ARRAY(SELECT jsonb_array_elements_text(payload -> 'work_email_keys')),
       payload -> 'doc', 1, staged_at, staged_at, true
  FROM job
 WHERE kind = 'user.create' AND state IN ('staged', 'running', 'retry', 'dead')
"""

# Makes the partitions of this month and of the `months` that follow. It runs as usher_maintenance whoever
# calls it, because usher_app may not create tables.
_PARTITIONS = """
CREATE FUNCTION usher_make_audit_partitions(months integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    first timestamptz;
    made integer := 0;
    name text;
BEGIN
    PERFORM pg_advisory_xact_lock(7311202);
    FOR ahead IN 0..months LOOP
        first := date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
        first := (first AT TIME ZONE 'UTC' + make_interval(months => ahead)) AT TIME ZONE 'UTC';
        name := 'audit_event_' || to_char(first AT TIME ZONE 'UTC', 'YYYYMM');
        IF to_regclass(name) IS NULL THEN
            EXECUTE format(
                'CREATE TABLE %I PARTITION OF audit_event FOR VALUES FROM (%L) TO (%L)',
                name, first, (first AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC');
            made := made + 1;
        END IF;
    END LOOP;
    RETURN made;
END
$$
"""

# Privileges stop usher_app; this also stops a slip by a role that owns the table.
_INSERT_ONLY = """
CREATE FUNCTION usher_refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit events are insert-only' USING ERRCODE = 'insufficient_privilege';
END
$$
"""


def upgrade() -> None:
    for statement in [_ROLES, _FOLD, _FOLD_JSON, *_TABLES, _VIEW, _PARTITIONS, _INSERT_ONLY]:
        op.execute(statement)
    op.execute(
        "CREATE TRIGGER audit_event_insert_only BEFORE UPDATE OR DELETE ON audit_event"
        " FOR EACH ROW EXECUTE FUNCTION usher_refuse_audit_change()"
    )
    op.execute(
        "CREATE TRIGGER audit_event_no_truncate BEFORE TRUNCATE ON audit_event"
        " FOR EACH STATEMENT EXECUTE FUNCTION usher_refuse_audit_change()"
    )
    op.execute("ALTER TABLE audit_event OWNER TO usher_maintenance")
    op.execute("ALTER TABLE audit_event_default OWNER TO usher_maintenance")
    op.execute("ALTER FUNCTION usher_make_audit_partitions(integer) OWNER TO usher_maintenance")
    op.execute("REVOKE ALL ON FUNCTION usher_make_audit_partitions(integer) FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION usher_make_audit_partitions(integer) TO usher_app")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON tenant, token, identifier, users, job, invitation TO usher_app")
    op.execute("GRANT SELECT ON directory_user, alembic_version TO usher_app")
    op.execute("GRANT SELECT, INSERT ON audit_event TO usher_app")
    op.execute("SELECT usher_make_audit_partitions(3)")


def downgrade() -> None:
    op.execute("DROP VIEW directory_user")
    op.execute("DROP TABLE audit_event, invitation, job, users, identifier, token, tenant")
    op.execute("DROP FUNCTION usher_make_audit_partitions, usher_refuse_audit_change, usher_fold_json, usher_fold")
    # The two roles stay: another database of the same server may use them.
