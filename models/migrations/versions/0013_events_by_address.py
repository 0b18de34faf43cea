"""Audit events are found by the address that they came from."""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "CREATE INDEX audit_event_ip ON audit_event ((context ->> 'ip') text_pattern_ops, tenant_id, occurred_at)"
    )


def downgrade() -> None:
    op.execute("DROP INDEX audit_event_ip")
