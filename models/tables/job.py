"""The ledger: every asynchronous piece of work, with its state, lease and attempts."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Column, Index, SmallInteger, Text, text
from sqlmodel import Field, SQLModel

from models.tables.columns import json, moment

_DUE = "state = ANY (ARRAY['staged'::text, 'retry'::text])"
_OPEN = "state = ANY (ARRAY['staged'::text, 'running'::text, 'retry'::text, 'dead'::text])"
_WAITING_CREATE = f"kind = 'user.create'::text AND {_OPEN}"


class Job(SQLModel, table=True):
    """One job. arq carries its id; everything that matters stands here."""

    __tablename__ = "job"
    __table_args__ = (
        CheckConstraint(
            "state = ANY (ARRAY['staged'::text, 'running'::text, 'retry'::text, 'done'::text, 'dead'::text,"
            " 'cancelled'::text])",
            name="job_state",
        ),
        Index("job_due", "queue", "tenant_id", "kind", "run_at", "id", postgresql_where=text(_DUE)),
        Index("job_leased", "lease_until", postgresql_where=text("state = 'running'::text")),
        Index("job_retry", "queue", "kind", "staged_at", "run_at", postgresql_where=text("state = 'retry'::text")),
        Index("job_dead", "kind", "tenant_id", postgresql_where=text("state = 'dead'::text")),
        Index("job_cancelled", "id", postgresql_where=text("state = 'cancelled'::text")),
        Index("job_waiting_id", "tenant_id", "resource_id", postgresql_where=text(_WAITING_CREATE)),
        Index("job_waiting_other", "staged_at", postgresql_where=text(f"kind <> 'user.create'::text AND {_OPEN}")),
        Index(
            "job_waiting_other_resource",
            "resource_id",
            postgresql_where=text(f"kind <> 'user.create'::text AND {_OPEN}"),
        ),
        Index(
            "job_waiting_external_id",
            "tenant_id",
            text("((payload ->> 'external_id'::text))"),
            postgresql_where=text(_WAITING_CREATE),
        ),
        Index(
            "job_waiting_work_email",
            "tenant_id",
            text("(((payload -> 'work_email_keys'::text) ->> 0))"),
            postgresql_where=text(_WAITING_CREATE),
        ),
        Index(
            "job_waiting_further_work_emails",
            "tenant_id",
            postgresql_where=text(_WAITING_CREATE + " AND jsonb_array_length(payload -> 'work_email_keys'::text) > 1"),
        ),
    )

    id: UUID = Field(primary_key=True)
    tenant_id: UUID
    kind: str = Field(sa_column=Column(Text, nullable=False))
    queue: str = Field(sa_column=Column(Text, nullable=False))
    state: str = Field(default="staged", sa_column=Column(Text, nullable=False, server_default="staged"))
    resource_id: UUID | None = None
    """The user, invitation, … that the job is about."""
    payload: dict[str, Any] | None = Field(default=None, sa_column=json(nullable=True))
    """What the handler needs; emptied when a create is applied, because the user row holds the document then."""
    run_at: datetime = Field(sa_column=moment(now=True))
    """Not before this moment of the database's clock."""
    attempts: int = Field(default=0, sa_column=Column(SmallInteger, nullable=False, server_default=text("0")))
    lease_token: UUID | None = None
    lease_until: datetime | None = Field(default=None, sa_column=moment(nullable=True))
    error_code: str | None = Field(default=None, sa_column=Column(Text))
    error_detail: str | None = Field(default=None, sa_column=Column(Text))
    correlation_id: UUID
    trace_context: str | None = Field(default=None, sa_column=Column(Text))
    staged_at: datetime = Field(sa_column=moment(now=True))
    started_at: datetime | None = Field(default=None, sa_column=moment(nullable=True))
    finished_at: datetime | None = Field(default=None, sa_column=moment(nullable=True))
