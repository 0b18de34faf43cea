"""What operators did to the ledger: pauses and bulk operations; and the attempts that did not end well."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, Column, Float, Index, Integer, SmallInteger, Text, text
from sqlmodel import Field, SQLModel

from models.tables.columns import moment


class JobPause(SQLModel, table=True):
    """Jobs of a kind, of a tenant or of both (or all, if neither is named) that no worker takes for a while."""

    __tablename__ = "job_pause"
    __table_args__ = (Index("job_pause_scope", "kind", "tenant_id", unique=True, postgresql_nulls_not_distinct=True),)

    id: UUID = Field(primary_key=True)
    kind: str | None = Field(default=None, sa_column=Column(Text))
    tenant_id: UUID | None = None
    reason: str = Field(sa_column=Column(Text, nullable=False))
    paused_by: str = Field(sa_column=Column(Text, nullable=False))
    paused_at: datetime = Field(sa_column=moment(now=True))
    expires_at: datetime | None = Field(default=None, sa_column=moment(nullable=True))


class JobAttempt(SQLModel, table=True):
    """One attempt that did not end well; of those that did, the job itself says all."""

    __tablename__ = "job_attempt"
    __table_args__ = (Index("job_attempt_job", "job_id"),)

    id: UUID = Field(primary_key=True)
    job_id: UUID
    attempt: int = Field(sa_column=Column(SmallInteger, nullable=False))
    process_id: UUID | None = None
    started_at: datetime | None = Field(default=None, sa_column=moment(nullable=True))
    ended_at: datetime = Field(sa_column=moment(now=True))
    outcome: str = Field(sa_column=Column(Text, nullable=False))
    """The state that it left the job in: `retry` or `dead`."""
    error_code: str = Field(sa_column=Column(Text, nullable=False))
    error_detail: str | None = Field(default=None, sa_column=Column(Text))
    trace: str | None = Field(default=None, sa_column=Column(Text))
    """Where it was raised: modules and lines, without values."""


class BulkOperation(SQLModel, table=True):
    """One action on every job that matched a search when it was asked for; a worker carries it out in batches."""

    __tablename__ = "bulk_operation"
    __table_args__ = (
        CheckConstraint(
            "state = ANY (ARRAY['running'::text, 'stopped'::text, 'done'::text, 'failed'::text])",
            name="bulk_operation_state",
        ),
        Index("bulk_operation_running", "id", postgresql_where=text("state = 'running'::text")),
    )

    id: UUID = Field(primary_key=True)
    action: str = Field(sa_column=Column(Text, nullable=False))
    query: str = Field(sa_column=Column(Text, nullable=False))
    tenant_id: UUID | None = None
    reason: str | None = Field(default=None, sa_column=Column(Text))
    state: str = Field(default="running", sa_column=Column(Text, nullable=False, server_default="running"))
    bound_at: datetime = Field(sa_column=moment(now=True))
    """Jobs staged later are left alone."""
    after_id: UUID | None = None
    """The last job that was looked at."""
    expected: int
    applied: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    skipped: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    """Jobs that had moved on by themselves."""
    stop_requested: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})
    error_detail: str | None = Field(default=None, sa_column=Column(Text))
    delay_seconds: float = Field(default=0, sa_column=Column(Float, nullable=False, server_default=text("0")))
    """Of a retry: how long its jobs wait before they are due."""
    requested_by: str = Field(sa_column=Column(Text, nullable=False))
    requested_by_id: str | None = Field(default=None, sa_column=Column(Text))
    correlation_id: UUID
    created_at: datetime = Field(sa_column=moment(now=True))
    finished_at: datetime | None = Field(default=None, sa_column=moment(nullable=True))
