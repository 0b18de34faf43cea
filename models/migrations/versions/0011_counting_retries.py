"""What is in retry is counted without looking at what waits."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX job_retry ON job (queue, kind, staged_at, run_at) WHERE state = 'retry'")


def downgrade() -> None:
    op.execute("DROP INDEX job_retry")
