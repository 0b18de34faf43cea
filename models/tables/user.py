"""The user store, and the identifiers that decide who is unique.

`tenant_id` carries no foreign key here: checking it would lock the tenant's row on every create,
and tenants are never deleted.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Column, Index, Text, text
from sqlmodel import Field, SQLModel

from models.tables.columns import folded, json, moment, texts


class Identifier(SQLModel, table=True):
    """A value that only one resource of a tenant may bear; reserved when the create is accepted."""

    __tablename__ = "identifier"

    tenant_id: UUID = Field(primary_key=True)
    kind: str = Field(sa_column=Column(Text, primary_key=True))
    """`userName` of users, `displayName` of groups."""
    value_key: str = Field(sa_column=Column(Text, primary_key=True))
    """The value as it is compared: `models.scim.schema.compare_key`."""
    resource_id: UUID


class User(SQLModel, table=True):
    """An applied user. Reads go through the view `directory_user`, which adds creates still waiting."""

    __tablename__ = "users"
    __table_args__ = (
        Index("users_external_id", "tenant_id", "external_id"),
        Index("users_work_email", "tenant_id", text("(work_email_keys[1])")),
        Index(
            "users_further_work_emails",
            "work_email_keys",
            postgresql_using="gin",
            postgresql_where=text("cardinality(work_email_keys) > 1"),
        ),
        folded("users_doc"),
    )

    tenant_id: UUID = Field(primary_key=True)
    id: UUID = Field(primary_key=True)
    """UUID version 7, given at acceptance: ordering by it is ordering by age."""
    external_id: str | None = Field(default=None, sa_column=Column(Text))
    work_email_keys: list[str] = Field(sa_column=texts())
    """Work e-mail addresses as they are compared, in document order."""
    active: bool
    doc: dict[str, Any] = Field(sa_column=json())
    """The SCIM document as the client sent it, without `id` and `meta`."""
    version: int = Field(default=1, sa_column_kwargs={"server_default": text("1")})
    created_at: datetime = Field(sa_column=moment())
    last_modified: datetime = Field(sa_column=moment())
