"""What upkeep needs: the index that leads to links of invitations that are over."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "CREATE INDEX invitation_over ON invitation (expires_at)"
        " WHERE token_hash IS NOT NULL AND state IN ('accepted', 'expired')"
    )


def downgrade() -> None:
    op.execute("DROP INDEX invitation_over")
