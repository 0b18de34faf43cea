"""What proves the audit log: keys, seals and the leaves under them; and the holds that keep events in place."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, LargeBinary, Text, text
from sqlmodel import Field, SQLModel

from models.tables.columns import moment


class AuditKey(SQLModel, table=True):
    """A public key that seals were signed with; the private one is never in the database."""

    __tablename__ = "audit_key"

    key_id: str = Field(sa_column=Column(Text, primary_key=True))
    verifier: str = Field(sa_column=Column(Text, nullable=False))
    """The key as C2SP writes it: `name+hash+base64`."""
    created_at: datetime = Field(sa_column=moment(now=True))


class AuditSeal(SQLModel, table=True):
    """A signed statement about all events of a stream between two transaction ids."""

    __tablename__ = "audit_seal"
    __table_args__ = (
        CheckConstraint("kind = ANY (ARRAY['events'::text, 'empty'::text, 'tombstone'::text])", name="audit_seal_kind"),
        Index("audit_seal_reach", "to_xid"),
    )

    stream: UUID = Field(primary_key=True)
    """The tenant, or all zeros for the events of the installation itself."""
    seq: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    """From 1 on, without gaps."""
    kind: str = Field(sa_column=Column(Text, nullable=False))
    from_xid: int = Field(sa_column=Column(BigInteger, nullable=False))
    """The first transaction id that may be in it: where the stream's seal before it ended."""
    to_xid: int = Field(sa_column=Column(BigInteger, nullable=False))
    """The first that is not in it any more."""
    count: int
    root: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    """Merkle root (RFC 6962) over the leaves in the order of (xid, id)."""
    previous: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    """`hash` of the stream's seal before it; zeros for the first."""
    hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    detail: str | None = Field(default=None, sa_column=Column(Text))
    """Of a tombstone: which leaves of which seals were removed, as JSON."""
    sealed_at: datetime = Field(sa_column=moment())
    key_id: str = Field(sa_column=Column(Text, nullable=False))
    signature: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class AuditLeaves(SQLModel, table=True):
    """The leaves of a seal, by which a difference is narrowed to the row; 56 bytes an event."""

    __tablename__ = "audit_leaves"

    stream: UUID = Field(primary_key=True)
    seq: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    ids: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    xids: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    """Eight bytes each, big-endian."""
    leaves: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class AuditHold(SQLModel, table=True):
    """A legal hold: while it is open nothing of the tenant's (or of anybody's) is removed or erased."""

    __tablename__ = "audit_hold"
    __table_args__ = (Index("audit_hold_open", "tenant_id", postgresql_where=text("released_at IS NULL")),)

    id: UUID = Field(primary_key=True)
    tenant_id: UUID | None = None
    """Empty for everybody's."""
    reason: str = Field(sa_column=Column(Text, nullable=False))
    placed_by: str = Field(sa_column=Column(Text, nullable=False))
    placed_at: datetime = Field(sa_column=moment(now=True))
    released_by: str | None = Field(default=None, sa_column=Column(Text))
    released_at: datetime | None = Field(default=None, sa_column=moment(nullable=True))
