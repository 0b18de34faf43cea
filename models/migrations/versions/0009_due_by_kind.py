"""Jobs that wait are found by tenant and kind, so that what is paused is not looked at, however much of it there is."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("DROP INDEX job_due")
    op.execute("CREATE INDEX job_due ON job (queue, tenant_id, kind, run_at, id) WHERE state IN ('staged', 'retry')")


def downgrade() -> None:
    op.execute("DROP INDEX job_due")
    op.execute("CREATE INDEX job_due ON job (queue, tenant_id, run_at, id) WHERE state IN ('staged', 'retry')")
