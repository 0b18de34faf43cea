"""Requests that are carried out after they were answered."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Column, Index, Integer, text
from sqlmodel import Field, SQLModel

from models.tables.columns import json, moment


class DeferredRequest(SQLModel, table=True):
    """One request that asked to be carried out asynchronously (RFC 9967), until its outcome is no longer kept."""

    __tablename__ = "deferred_request"
    __table_args__ = (
        Index("deferred_request_open", "lease_until", postgresql_where=text("finished_at IS NULL")),
        Index("deferred_request_ended", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
    )

    id: UUID = Field(primary_key=True)
    """Its transaction (`Set-Txn`), and the correlation id of what it does."""
    tenant_id: UUID
    request: dict[str, Any] | None = Field(default=None, sa_column=json(nullable=True))
    """What was asked, without passwords; emptied when it is done."""
    result: dict[str, Any] | None = Field(default=None, sa_column=json(nullable=True))
    """The outcomes by place in the request, as bulk responses tell them."""
    attempts: int = Field(default=1, sa_column=Column(Integer, nullable=False, server_default=text("1")))
    lease_until: datetime | None = Field(default=None, sa_column=moment(nullable=True))
    """Until when the process that carries it out is taken to live."""
    accepted_at: datetime = Field(sa_column=moment(now=True))
    finished_at: datetime | None = Field(default=None, sa_column=moment(nullable=True))
