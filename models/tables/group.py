"""Groups and who is in them."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Column, Index, Text, text
from sqlmodel import Field, SQLModel

from models.tables.columns import folded, json, moment


class Group(SQLModel, table=True):
    """A group. Its name is reserved in `identifier` under the kind `displayName`."""

    __tablename__ = "groups"
    __table_args__ = (Index("groups_external_id", "tenant_id", "external_id"), folded("groups_doc"))

    tenant_id: UUID = Field(primary_key=True)
    id: UUID = Field(primary_key=True)
    """UUID version 7: ordering by it is ordering by age."""
    external_id: str | None = Field(default=None, sa_column=Column(Text))
    display_name_key: str = Field(sa_column=Column(Text, nullable=False))
    """The displayName as it is compared, which is to be freed when the group is renamed or deleted."""
    doc: dict[str, Any] = Field(sa_column=json())
    """The SCIM document as the client sent it, without `id`, `meta` and `members`."""
    version: int = Field(default=1, sa_column_kwargs={"server_default": text("1")})
    created_at: datetime = Field(sa_column=moment())
    last_modified: datetime = Field(sa_column=moment())


class Membership(SQLModel, table=True):
    """That a user or a group is in a group. A member is a user of the store, a create still waiting, or a group."""

    __tablename__ = "membership"
    __table_args__ = (
        CheckConstraint("member_type = ANY (ARRAY['User'::text, 'Group'::text])", name="membership_member_type"),
        Index("membership_member", "tenant_id", "member_id", "group_id"),
    )

    tenant_id: UUID = Field(primary_key=True)
    group_id: UUID = Field(primary_key=True)
    member_id: UUID = Field(primary_key=True)
    member_type: str = Field(sa_column=Column(Text, nullable=False))
    """`User` or `Group`: what the member is, whatever the client called it."""
    added_at: datetime = Field(sa_column=moment(now=True))
