"""Requests that are carried out after they were answered (RFC 9967)."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE deferred_request (
            id uuid PRIMARY KEY,
            tenant_id uuid NOT NULL,
            request jsonb,
            result jsonb,
            attempts integer NOT NULL DEFAULT 1,
            lease_until timestamptz,
            accepted_at timestamptz NOT NULL DEFAULT now(),
            finished_at timestamptz
        )
        """
    )
    op.execute("CREATE INDEX deferred_request_open ON deferred_request (lease_until) WHERE finished_at IS NULL")
    op.execute("CREATE INDEX deferred_request_ended ON deferred_request (finished_at) WHERE finished_at IS NOT NULL")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON deferred_request TO usher_app")


def downgrade() -> None:
    op.execute("DROP TABLE deferred_request")
