"""Searches of the audit log that an operator keeps."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import Column, ForeignKey, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

from models.tables.columns import moment


class SavedView(SQLModel, table=True):
    """One search under a name of the operator's own."""

    __tablename__ = "saved_view"
    __table_args__ = (UniqueConstraint("operator_id", "name", name="saved_view_name"),)

    id: UUID = Field(primary_key=True)
    operator_id: UUID = Field(sa_column=Column(ForeignKey("operator.id", ondelete="CASCADE"), nullable=False))
    name: str = Field(sa_column=Column(Text, nullable=False))
    query: str = Field(sa_column=Column(Text, nullable=False))
    created_at: datetime = Field(sa_column=moment(now=True))
