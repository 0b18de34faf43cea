"""What people and Usher itself did is found among all that tokens and jobs do."""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "CREATE INDEX audit_event_rare_actor ON audit_event (occurred_at DESC, id DESC)"
        " WHERE actor_type IN ('operator', 'person', 'system')"
    )


def downgrade() -> None:
    op.execute("DROP INDEX audit_event_rare_actor")
