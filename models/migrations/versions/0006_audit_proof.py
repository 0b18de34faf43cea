"""What proves the audit log: salts, seals and their leaves, keys; holds, retention, erasure; exports and streams."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# The salt keeps the hash of personal values from being guessed at once they are gone. Erasing a person empties
# the values and the salt; `personal_hash` stands in for both from then on, and `erasure_id` names the event of it.
# The BRIN index finds what came since the last seal; it has an entry for 128 pages, so a row costs it nothing.
_EVENTS = [
    (
        "ALTER TABLE audit_event ADD COLUMN salt uuid DEFAULT gen_random_uuid(), ADD COLUMN personal_hash bytea,"
        " ADD COLUMN erasure_id uuid"
    ),
    "CREATE INDEX audit_event_xid ON audit_event USING brin ((xid::text::bigint)) WITH (autosummarize = on)",
    (
        "ALTER TABLE tenant ADD COLUMN audit_days integer NOT NULL DEFAULT 400"
        " CONSTRAINT tenant_audit_days CHECK (audit_days >= 90)"
    ),
]

_SEALS = [
    """
    CREATE TABLE audit_key (
        key_id text PRIMARY KEY,
        verifier text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    """
    CREATE TABLE audit_seal (
        stream uuid NOT NULL,
        seq bigint NOT NULL,
        kind text NOT NULL CONSTRAINT audit_seal_kind CHECK (kind IN ('events', 'empty', 'tombstone')),
        from_xid bigint NOT NULL,
        to_xid bigint NOT NULL,
        count integer NOT NULL,
        root bytea NOT NULL,
        previous bytea NOT NULL,
        hash bytea NOT NULL,
        detail text,
        sealed_at timestamptz NOT NULL,
        key_id text NOT NULL,
        signature bytea NOT NULL,
        PRIMARY KEY (stream, seq)
    )
    """,
    "CREATE INDEX audit_seal_reach ON audit_seal (to_xid)",
    """
    CREATE TABLE audit_leaves (
        stream uuid NOT NULL,
        seq bigint NOT NULL,
        ids bytea NOT NULL,
        xids bytea NOT NULL,
        leaves bytea NOT NULL,
        PRIMARY KEY (stream, seq)
    )
    """,
    # Hashes and random ids: nothing that compression could take away.
    (
        "ALTER TABLE audit_leaves ALTER ids SET STORAGE EXTERNAL, ALTER xids SET STORAGE EXTERNAL,"
        " ALTER leaves SET STORAGE EXTERNAL"
    ),
    """
    CREATE TABLE audit_hold (
        id uuid PRIMARY KEY,
        tenant_id uuid,
        reason text NOT NULL,
        placed_by text NOT NULL,
        placed_at timestamptz NOT NULL DEFAULT now(),
        released_by text,
        released_at timestamptz
    )
    """,
    "CREATE INDEX audit_hold_open ON audit_hold (tenant_id) WHERE released_at IS NULL",
]

_LEAVING = [
    """
    CREATE TABLE audit_export (
        id uuid PRIMARY KEY,
        tenant_id uuid,
        query text NOT NULL,
        format text NOT NULL CONSTRAINT audit_export_format CHECK (format IN ('csv', 'jsonl', 'ocsf')),
        state text NOT NULL DEFAULT 'staged'
            CONSTRAINT audit_export_state CHECK (state IN ('staged', 'running', 'done', 'failed', 'expired')),
        from_at timestamptz,
        to_at timestamptz,
        rows bigint NOT NULL DEFAULT 0,
        size bigint NOT NULL DEFAULT 0,
        path text,
        error_code text,
        requested_by text NOT NULL,
        correlation_id uuid NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        beat_at timestamptz,
        finished_at timestamptz,
        expires_at timestamptz
    )
    """,
    "CREATE INDEX audit_export_open ON audit_export (id) WHERE state IN ('staged', 'running')",
    """
    CREATE TABLE audit_stream (
        id uuid PRIMARY KEY,
        tenant_id uuid NOT NULL,
        kind text NOT NULL CONSTRAINT audit_stream_kind CHECK (kind IN ('https', 'syslog', 's3')),
        destination text NOT NULL,
        format text NOT NULL DEFAULT 'jsonl' CONSTRAINT audit_stream_format CHECK (format IN ('jsonl', 'ocsf')),
        state text NOT NULL DEFAULT 'active' CONSTRAINT audit_stream_state CHECK (state IN ('active', 'paused')),
        cursor_xid bigint NOT NULL,
        cursor_id uuid NOT NULL,
        sent bigint NOT NULL DEFAULT 0,
        failures integer NOT NULL DEFAULT 0,
        next_at timestamptz NOT NULL DEFAULT now(),
        last_sent_at timestamptz,
        last_event_at timestamptz,
        error_code text,
        created_by text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now()
    )
    """,
]

# What went wrong is what is asked for most, and rare: without an index of its own, "nothing did" means reading all.
_QUERIES = [
    """
    CREATE INDEX audit_event_wrong ON audit_event (tenant_id, occurred_at DESC, id DESC)
        WHERE outcome IN ('failure', 'denied')
    """,
    """
    CREATE TABLE saved_view (
        id uuid PRIMARY KEY,
        operator_id uuid NOT NULL REFERENCES operator (id) ON DELETE CASCADE,
        name text NOT NULL,
        query text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT saved_view_name UNIQUE (operator_id, name)
    )
    """,
]

# Only what these functions do may change or remove an event, and only for an audit event of the same transaction.
_INSERT_ONLY = """
CREATE OR REPLACE FUNCTION usher_refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND current_setting('usher.audit_change', true) = 'erase' THEN
        RETURN NEW;
    ELSIF TG_OP = 'DELETE' AND current_setting('usher.audit_change', true) = 'retain' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'audit events are insert-only' USING ERRCODE = 'insufficient_privilege';
END
$$
"""

_DEMAND = """
CREATE FUNCTION usher_demand_audit(event uuid, demanded text) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    said audit_event;
BEGIN
    SELECT * INTO said FROM audit_event
     WHERE occurred_at = now() AND id = event AND xid = pg_current_xact_id() AND action = demanded;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no event % of this transaction says so', demanded USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF EXISTS (SELECT FROM audit_hold WHERE released_at IS NULL
                AND (tenant_id IS NULL OR said.tenant_id IS NULL OR tenant_id = said.tenant_id)) THEN
        RAISE EXCEPTION 'a legal hold forbids it' USING ERRCODE = 'object_in_use';
    END IF;
    RETURN said.tenant_id;
END
$$
"""

_ERASE = """
CREATE FUNCTION usher_erase_audit_events(erasure uuid, moments timestamptz[], events uuid[], hashes bytea[])
    RETURNS integer LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    whose uuid := usher_demand_audit(erasure, 'audit.person.erase');
    done integer;
BEGIN
    PERFORM set_config('usher.audit_change', 'erase', true);
    UPDATE audit_event AS e
       SET diff = NULL, actor_label = NULL, context = context - 'ip' - 'peer' - 'user_agent', salt = NULL,
           targets = coalesce((
               SELECT jsonb_agg((SELECT jsonb_object_agg(key, value) FROM jsonb_each(one) WHERE key IN ('type', 'id'))
                                ORDER BY place)
                 FROM jsonb_array_elements(e.targets) WITH ORDINALITY AS t (one, place)), '[]'),
           personal_hash = i.hash, erasure_id = erasure
      FROM unnest(moments, events, hashes) AS i (moment, id, hash)
     WHERE e.occurred_at = i.moment AND e.id = i.id AND e.tenant_id = whose AND e.salt IS NOT NULL AND e.id <> erasure;
    GET DIAGNOSTICS done = ROW_COUNT;
    PERFORM set_config('usher.audit_change', '', true);
    RETURN done;
END
$$
"""

_DELETE = """
CREATE FUNCTION usher_delete_audit_events(retention uuid, before timestamptz, moments timestamptz[], events uuid[])
    RETURNS integer LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    whose uuid := usher_demand_audit(retention, 'audit.log.retain');
    done integer;
BEGIN
    IF before > now() - interval '90 days' THEN
        RAISE EXCEPTION 'events are kept 90 days at least' USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM set_config('usher.audit_change', 'retain', true);
    DELETE FROM audit_event AS e USING unnest(moments, events) AS i (moment, id)
     WHERE e.occurred_at = i.moment AND e.id = i.id AND e.tenant_id IS NOT DISTINCT FROM whose
       AND e.occurred_at < before;
    GET DIAGNOSTICS done = ROW_COUNT;
    PERFORM set_config('usher.audit_change', '', true);
    RETURN done;
END
$$
"""

# An event of the installation (no tenant) stands for dropping a month of everybody's.
_DROP = """
CREATE FUNCTION usher_drop_audit_month(retention uuid, first timestamptz)
    RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    name text := 'audit_event_' || to_char(first AT TIME ZONE 'UTC', 'YYYYMM');
BEGIN
    IF usher_demand_audit(retention, 'audit.log.retain') IS NOT NULL
       OR (date_trunc('month', first AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC'
          > now() - interval '90 days'
    THEN
        RAISE EXCEPTION 'events are kept 90 days at least' USING ERRCODE = 'insufficient_privilege';
    END IF;
    EXECUTE format('ALTER TABLE audit_event DETACH PARTITION %I', name);
    EXECUTE format('DROP TABLE %I', name);
END
$$
"""

_FUNCTIONS = (
    "usher_demand_audit(uuid, text)",
    "usher_erase_audit_events(uuid, timestamptz[], uuid[], bytea[])",
    "usher_delete_audit_events(uuid, timestamptz, timestamptz[], uuid[])",
    "usher_drop_audit_month(uuid, timestamptz)",
)
# What the application may add to but neither change nor delete, and what it keeps up.
_FIRM = ("audit_key", "audit_seal", "audit_leaves")
_KEPT = ("audit_hold", "audit_export", "audit_stream")


def upgrade() -> None:
    for statement in [*_EVENTS, *_SEALS, *_LEAVING, *_QUERIES, _INSERT_ONLY, _DEMAND, _ERASE, _DELETE, _DROP]:
        op.execute(statement)
    for table in _FIRM:
        op.execute(f"ALTER TABLE {table} OWNER TO usher_maintenance")
        op.execute(f"GRANT SELECT, INSERT ON {table} TO usher_app")
    op.execute(f"GRANT SELECT, INSERT, UPDATE ON {', '.join(_KEPT)} TO usher_app")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON saved_view TO usher_app")
    op.execute("GRANT DELETE ON audit_stream TO usher_app")
    op.execute("GRANT SELECT ON audit_hold TO usher_maintenance")
    op.execute("GRANT SELECT ON audit_event_default TO usher_app")  # to see whether anything is there
    for function in _FUNCTIONS:
        op.execute(f"ALTER FUNCTION {function} OWNER TO usher_maintenance")
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    for function in _FUNCTIONS[1:]:
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO usher_app")


def downgrade() -> None:
    op.execute(f"DROP FUNCTION {', '.join(_FUNCTIONS)}")
    op.execute(f"DROP TABLE {', '.join((*_FIRM, *_KEPT))}, saved_view")
    op.execute("ALTER TABLE audit_event DROP COLUMN salt, DROP COLUMN personal_hash, DROP COLUMN erasure_id")
    op.execute("DROP INDEX audit_event_xid, audit_event_wrong")
    op.execute("ALTER TABLE tenant DROP COLUMN audit_days")
