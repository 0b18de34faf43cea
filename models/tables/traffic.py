"""What clients sent lately, and addresses that get no more mail."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Column, DateTime, Index, SmallInteger, Text, text
from sqlmodel import Field, SQLModel

from models.tables.columns import json, moment


class RequestLog(SQLModel, table=True):
    """One SCIM request as operators see it: nothing personal, unless a tenant's capture is on."""

    __tablename__ = "request_log"
    __table_args__ = (
        Index("request_log_tenant", "tenant_id", "id"),
        Index("request_log_refused", "id", postgresql_where=text("status >= 400")),
        Index("request_log_tenant_refused", "tenant_id", "id", postgresql_where=text("status >= 400")),
        Index("request_log_correlation", "correlation_id"),
        Index("request_log_captured", "captured_until", postgresql_where=text("captured_until IS NOT NULL")),
    )

    id: UUID = Field(primary_key=True)
    tenant_id: UUID | None = None
    occurred_at: datetime = Field(sa_column=moment(now=True))
    method: str = Field(sa_column=Column(Text, nullable=False))
    route: str = Field(sa_column=Column(Text, nullable=False))
    path: str = Field(sa_column=Column(Text, nullable=False))
    """Without query string, and with ids only where the route has them."""
    status: int = Field(sa_column=Column(SmallInteger, nullable=False))
    scim_type: str | None = Field(default=None, sa_column=Column(Text))
    duration_seconds: float
    correlation_id: UUID
    note: str | None = Field(default=None, sa_column=Column(Text))
    """The refusal, or the client's deviation that was tolerated, in words."""
    captured: dict[str, Any] | None = Field(default=None, sa_column=json(nullable=True))
    """Bodies, redacted, while the tenant's capture is on."""
    captured_until: datetime | None = Field(default=None, sa_column=moment(nullable=True))
    """When they are deleted."""


class RequestMinute(SQLModel, table=True):
    """How many requests a tenant sent in one minute, also those of which there is no row."""

    __tablename__ = "request_minute"
    __table_args__ = (
        Index("request_minute_tenant", "tenant_id", "minute", unique=True, postgresql_nulls_not_distinct=True),
    )

    id: UUID = Field(primary_key=True)
    tenant_id: UUID | None = None
    """None for those that no token gave a tenant."""
    minute: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    succeeded: int
    refused: int
    omitted: int
    """Of both, those without a row."""
    succeeded_at: datetime | None = Field(default=None, sa_column=moment(nullable=True))
    """The last success."""


class Suppression(SQLModel, table=True):
    """An address that gets no more mail from a tenant."""

    __tablename__ = "suppression"

    tenant_id: UUID = Field(primary_key=True)
    email_key: str = Field(sa_column=Column(Text, primary_key=True))
    reason: str = Field(sa_column=Column(Text, nullable=False))
    created_by: str = Field(sa_column=Column(Text, nullable=False))
    created_at: datetime = Field(sa_column=moment(now=True))
