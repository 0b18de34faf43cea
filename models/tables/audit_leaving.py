"""How audit events leave: exports that somebody asked for."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Text, text
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
