"""How audit events leave: exports that somebody asked for, and streams that go on."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, LargeBinary, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from models.tables.columns import moment


class AuditExport(SQLModel, table=True):
    """One export that a worker writes to a file, to be fetched by a link that expires."""

    __tablename__ = "audit_export"
    __table_args__ = (
        CheckConstraint("format = ANY (ARRAY['csv'::text, 'jsonl'::text, 'ocsf'::text])", name="audit_export_format"),
        CheckConstraint(
            "state = ANY (ARRAY['staged'::text, 'running'::text, 'done'::text, 'failed'::text, 'expired'::text])",
            name="audit_export_state",
        ),
        Index("audit_export_open", "id", postgresql_where=text("state = ANY (ARRAY['staged'::text, 'running'::text])")),
    )

    id: UUID = Field(primary_key=True)
    tenant_id: UUID | None = None
    """Empty for every tenant's events."""
    query: str = Field(sa_column=Column(Text, nullable=False))
    format: str = Field(sa_column=Column(Text, nullable=False))
    state: str = Field(default="staged", sa_column=Column(Text, nullable=False, server_default="staged"))
    from_at: datetime | None = Field(default=None, sa_column=moment(nullable=True))
    to_at: datetime | None = Field(default=None, sa_column=moment(nullable=True))
    """Fixed when it was asked for: what comes later is not in it."""
    rows: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    size: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    path: str | None = Field(default=None, sa_column=Column(Text))
    error_code: str | None = Field(default=None, sa_column=Column(Text))
    requested_by: str = Field(sa_column=Column(Text, nullable=False))
    correlation_id: UUID
    created_at: datetime = Field(sa_column=moment(now=True))
    beat_at: datetime | None = Field(default=None, sa_column=moment(nullable=True))
    """The last sign of life of the worker that writes it."""
    finished_at: datetime | None = Field(default=None, sa_column=moment(nullable=True))
    expires_at: datetime | None = Field(default=None, sa_column=moment(nullable=True))


class AuditStream(SQLModel, table=True):
    """A place outside that gets a tenant's events as they come, at least once, from the safe horizon."""

    __tablename__ = "audit_stream"
    __table_args__ = (
        CheckConstraint("kind = ANY (ARRAY['https'::text, 'syslog'::text, 's3'::text])", name="audit_stream_kind"),
        CheckConstraint("format = ANY (ARRAY['jsonl'::text, 'ocsf'::text])", name="audit_stream_format"),
        CheckConstraint("state = ANY (ARRAY['active'::text, 'paused'::text])", name="audit_stream_state"),
    )

    id: UUID = Field(primary_key=True)
    tenant_id: UUID
    kind: str = Field(sa_column=Column(Text, nullable=False))
    destination: str = Field(sa_column=Column(Text, nullable=False))
    """A URL without a secret in it."""
    format: str = Field(default="jsonl", sa_column=Column(Text, nullable=False, server_default="jsonl"))
    state: str = Field(default="active", sa_column=Column(Text, nullable=False, server_default="active"))
    cursor_xid: int = Field(sa_column=Column(BigInteger, nullable=False))
    cursor_id: UUID
    """The last event that the place has confirmed, with `cursor_xid`."""
    sent: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    failures: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})
    """How often in a row it was refused."""
    next_at: datetime = Field(sa_column=moment(now=True))
    last_sent_at: datetime | None = Field(default=None, sa_column=moment(nullable=True))
    last_event_at: datetime | None = Field(default=None, sa_column=moment(nullable=True))
    error_code: str | None = Field(default=None, sa_column=Column(Text))
    created_by: str = Field(sa_column=Column(Text, nullable=False))
    created_at: datetime = Field(sa_column=moment(now=True))
    secret: bytes | None = Field(default=None, sa_column=Column(LargeBinary))
    """What the place is to know us by, encrypted (`models.crypt`)."""
    levels: dict[str, str] = Field(
        default_factory=dict, sa_column=Column(JSONB, nullable=False, server_default=text("'{}'"))
    )
    """How much of an attribute leaves, where it is to be another than in `models.audit.redact.REGISTRY`."""
    lease_token: UUID | None = None
    lease_until: datetime | None = Field(default=None, sa_column=moment(nullable=True))
    """Until then the worker that took the lease sends alone."""
