"""What a stream of audit events needs to be sent: its secret, its levels of redaction, and the lease of its sender."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "ALTER TABLE audit_stream ADD COLUMN secret bytea, ADD COLUMN levels jsonb NOT NULL DEFAULT '{}',"
        " ADD COLUMN lease_token uuid, ADD COLUMN lease_until timestamptz"
    )


def downgrade() -> None:
    op.execute(
        "ALTER TABLE audit_stream DROP COLUMN secret, DROP COLUMN levels, DROP COLUMN lease_token,"
        " DROP COLUMN lease_until"
    )
