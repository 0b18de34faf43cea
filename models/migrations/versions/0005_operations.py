"""What operators need: who they are, what they paused, which processes live, what was tried, what came in lately."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_PEOPLE = [
    """
    CREATE TABLE operator (
        id uuid PRIMARY KEY,
        name text NOT NULL UNIQUE,
        email text NOT NULL,
        role text NOT NULL CONSTRAINT operator_role CHECK (role IN ('viewer', 'operator', 'admin')),
        password_hash text,
        created_at timestamptz NOT NULL DEFAULT now(),
        disabled_at timestamptz,
        last_sign_in_at timestamptz
    )
    """,
    "CREATE UNIQUE INDEX operator_email ON operator (lower(email))",
    """
    CREATE TABLE operator_session (
        id_hash bytea PRIMARY KEY,
        operator_id uuid NOT NULL REFERENCES operator (id) ON DELETE CASCADE,
        created_at timestamptz NOT NULL DEFAULT now(),
        seen_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL
    )
    """,
    "CREATE INDEX operator_session_operator ON operator_session (operator_id)",
    """
    CREATE TABLE sign_in_link (
        token_hash bytea PRIMARY KEY,
        operator_id uuid NOT NULL REFERENCES operator (id) ON DELETE CASCADE,
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL,
        used_at timestamptz
    )
    """,
    "CREATE INDEX sign_in_link_operator ON sign_in_link (operator_id)",
    """
    CREATE TABLE sign_in_failure (
        id uuid PRIMARY KEY,
        key bytea NOT NULL,
        failed_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE INDEX sign_in_failure_key ON sign_in_failure (key, failed_at)",
]

_JOBS = [
    """
    CREATE TABLE job_pause (
        id uuid PRIMARY KEY,
        kind text,
        tenant_id uuid,
        reason text NOT NULL,
        paused_by text NOT NULL,
        paused_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz
    )
    """,
    "CREATE UNIQUE INDEX job_pause_scope ON job_pause (kind, tenant_id) NULLS NOT DISTINCT",
    # Only attempts that did not end well: of those that did, the job itself says all.
    """
    CREATE TABLE job_attempt (
        id uuid PRIMARY KEY,
        job_id uuid NOT NULL,
        attempt smallint NOT NULL,
        process_id uuid,
        started_at timestamptz,
        ended_at timestamptz NOT NULL DEFAULT now(),
        outcome text NOT NULL,
        error_code text NOT NULL,
        error_detail text,
        trace text
    )
    """,
    "CREATE INDEX job_attempt_job ON job_attempt (job_id)",
    """
    CREATE TABLE bulk_operation (
        id uuid PRIMARY KEY,
        action text NOT NULL,
        query text NOT NULL,
        tenant_id uuid,
        reason text,
        state text NOT NULL DEFAULT 'running'
            CONSTRAINT bulk_operation_state CHECK (state IN ('running', 'stopped', 'done', 'failed')),
        bound_at timestamptz NOT NULL DEFAULT now(),
        after_id uuid,
        expected integer NOT NULL,
        applied integer NOT NULL DEFAULT 0,
        skipped integer NOT NULL DEFAULT 0,
        stop_requested boolean NOT NULL DEFAULT false,
        error_detail text,
        delay_seconds double precision NOT NULL DEFAULT 0,
        requested_by text NOT NULL,
        requested_by_id text,
        correlation_id uuid NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        finished_at timestamptz
    )
    """,
    "CREATE INDEX bulk_operation_running ON bulk_operation (id) WHERE state = 'running'",
    # From an invitation to its job, while that is open: how a search by a person's name finds it.
    """
    CREATE INDEX job_waiting_other_resource ON job (resource_id)
        WHERE kind <> 'user.create' AND state IN ('staged', 'running', 'retry', 'dead')
    """,
]

_PROCESSES = [
    """
    CREATE TABLE process (
        id uuid PRIMARY KEY,
        role text NOT NULL CONSTRAINT process_role CHECK (role IN ('api', 'worker')),
        host text NOT NULL,
        pid integer NOT NULL,
        version text NOT NULL,
        queues text[] NOT NULL,
        slots integer NOT NULL,
        busy integer NOT NULL DEFAULT 0,
        jobs_done bigint NOT NULL DEFAULT 0,
        jobs_failed bigint NOT NULL DEFAULT 0,
        rss_bytes bigint NOT NULL DEFAULT 0,
        loop_lag_seconds double precision NOT NULL DEFAULT 0,
        quiet boolean NOT NULL DEFAULT false,
        started_at timestamptz NOT NULL DEFAULT now(),
        beat_at timestamptz NOT NULL DEFAULT now(),
        stopped_at timestamptz
    )
    """,
    "CREATE INDEX process_living ON process (beat_at) WHERE stopped_at IS NULL",
    # Each process adds up what it did; whoever reads sums over the processes.
    """
    CREATE TABLE job_minute (
        minute timestamptz NOT NULL,
        kind text NOT NULL,
        process_id uuid NOT NULL,
        started integer NOT NULL DEFAULT 0,
        done integer NOT NULL DEFAULT 0,
        failed integer NOT NULL DEFAULT 0,
        dead integer NOT NULL DEFAULT 0,
        queueing integer[] NOT NULL,
        running integer[] NOT NULL,
        PRIMARY KEY (minute, kind, process_id)
    )
    """,
    """
    CREATE TABLE schedule (
        name text PRIMARY KEY,
        started_at timestamptz,
        finished_at timestamptz,
        outcome text,
        detail text,
        next_at timestamptz,
        run_now boolean NOT NULL DEFAULT false
    )
    """,
]

_TRAFFIC = [
    "ALTER TABLE tenant ADD COLUMN capture_until timestamptz",
    """
    CREATE TABLE request_log (
        id uuid PRIMARY KEY,
        tenant_id uuid,
        occurred_at timestamptz NOT NULL DEFAULT now(),
        method text NOT NULL,
        route text NOT NULL,
        path text NOT NULL,
        status smallint NOT NULL,
        scim_type text,
        duration_seconds double precision NOT NULL,
        correlation_id uuid NOT NULL,
        note text,
        captured jsonb,
        captured_until timestamptz
    )
    """,
    "CREATE INDEX request_log_tenant ON request_log (tenant_id, id)",
    "CREATE INDEX request_log_refused ON request_log (id) WHERE status >= 400",
    "CREATE INDEX request_log_tenant_refused ON request_log (tenant_id, id) WHERE status >= 400",
    "CREATE INDEX request_log_correlation ON request_log (correlation_id)",
    "CREATE INDEX request_log_captured ON request_log (captured_until) WHERE captured_until IS NOT NULL",
    # Every request is counted, also those of which there is no row; whoever has no token has no tenant.
    """
    CREATE TABLE request_minute (
        id uuid PRIMARY KEY,
        tenant_id uuid,
        minute timestamptz NOT NULL,
        succeeded integer NOT NULL,
        refused integer NOT NULL,
        omitted integer NOT NULL,
        succeeded_at timestamptz
    )
    """,
    "CREATE UNIQUE INDEX request_minute_tenant ON request_minute (tenant_id, minute) NULLS NOT DISTINCT",
    # Most invitations are sent and rest; the others are what people look for.
    "CREATE INDEX invitation_unsent ON invitation (tenant_id, state, id) WHERE state <> 'sent'",
    "CREATE INDEX invitation_error ON invitation (error_code, id) WHERE error_code IS NOT NULL",
    """
    CREATE TABLE suppression (
        tenant_id uuid NOT NULL,
        email_key text NOT NULL,
        reason text NOT NULL,
        created_by text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, email_key)
    )
    """,
]

_TABLES = (
    "operator, operator_session, sign_in_link, sign_in_failure, job_pause, job_attempt, bulk_operation, process,"
    " job_minute, schedule, request_log, request_minute, suppression"
)


def upgrade() -> None:
    for statement in [*_PEOPLE, *_JOBS, *_PROCESSES, *_TRAFFIC]:
        op.execute(statement)
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {_TABLES} TO usher_app")


def downgrade() -> None:
    op.execute("DROP INDEX job_waiting_other_resource")
    op.execute("DROP INDEX invitation_unsent, invitation_error")
    op.execute(f"DROP TABLE {_TABLES}")
    op.execute("ALTER TABLE tenant DROP COLUMN capture_until")
