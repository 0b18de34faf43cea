"""Groups: the groups themselves, membership as rows, and indexes that answer `eq` on any attribute."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Names of groups are reserved in `identifier` under the kind `displayName`, as userNames are under theirs.
_TABLES = [
    """
    CREATE TABLE groups (
        tenant_id uuid NOT NULL,
        id uuid NOT NULL,
        external_id text,
        display_name_key text NOT NULL,
        doc jsonb NOT NULL,
        version integer NOT NULL DEFAULT 1,
        created_at timestamptz NOT NULL,
        last_modified timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, id)
    )
    """,
    "CREATE INDEX groups_external_id ON groups (tenant_id, external_id)",
    # A member may be a create that no worker has applied yet, so there is no table that a foreign key could name.
    """
    CREATE TABLE membership (
        tenant_id uuid NOT NULL,
        group_id uuid NOT NULL,
        member_id uuid NOT NULL,
        member_type text NOT NULL CONSTRAINT membership_member_type CHECK (member_type IN ('User', 'Group')),
        added_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, group_id, member_id)
    )
    """,
    "CREATE INDEX membership_member ON membership (tenant_id, member_id, group_id)",
]

_FOLDED = ("users", "groups")


def upgrade() -> None:
    for statement in _TABLES:
        op.execute(statement)
    for table in _FOLDED:
        op.execute(
            f"CREATE INDEX {table}_doc ON {table} USING gin (usher_fold_json(doc) jsonb_path_ops)"
            " WITH (gin_pending_list_limit = 1024)"
        )
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON groups, membership TO usher_app")


def downgrade() -> None:
    op.execute("DROP INDEX users_doc")
    op.execute("DROP TABLE membership, groups")
    op.execute("DELETE FROM identifier WHERE kind = 'displayName'")
