"""Tenants (the customers) and the bearer tokens that speak for them."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, LargeBinary, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from models.tables.columns import moment, texts


class Tenant(SQLModel, table=True):
    """One customer; every other row belongs to exactly one."""

    __tablename__ = "tenant"
    __table_args__ = (CheckConstraint("audit_days >= 90", name="tenant_audit_days"),)

    id: UUID = Field(primary_key=True)
    name: str = Field(sa_column=Column(Text, nullable=False, unique=True))
    """Short name that people type; unique, lower-case letters, digits and dashes."""
    display_name: str = Field(sa_column=Column(Text, nullable=False))
    """Name that invited people read."""
    sign_in_url: str | None = Field(default=None, sa_column=Column(Text))
    """Where an invited person goes after accepting."""
    branding: dict[str, Any] = Field(
        default_factory=dict, sa_column=Column(JSONB, nullable=False, server_default=text("'{}'"))
    )
    """Values for mails and pages: `accent_color`, `logo_url`, `support_email`, `sender_name`."""
    invitations: bool = Field(default=True, sa_column_kwargs={"server_default": text("true")})
    """Whether created users are invited by e-mail."""
    invitation_delay_seconds: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})
    """Seconds between the creation of a user and the invitation."""
    created_at: datetime = Field(sa_column=moment(now=True))
    schemas: dict[str, Any] = Field(
        default_factory=dict, sa_column=Column(JSONB, nullable=False, server_default=text("'{}'"))
    )
    """Extension schemas of the tenant's own: SCIM Schema documents by resource type, `User` and `Group`."""
    audit_days: int = Field(default=400, sa_column_kwargs={"server_default": text("400")})
    """Days that audit events are kept, 90 at least."""
    capture_until: datetime | None = Field(default=None, sa_column=moment(nullable=True))
    """Until when the bodies of requests are kept for operators to look at."""


class Token(SQLModel, table=True):
    """A bearer token, of which only the SHA-256 of the secret part is kept."""

    __tablename__ = "token"
    __table_args__ = (Index("token_tenant", "tenant_id"),)

    id: str = Field(sa_column=Column(Text, primary_key=True))
    """The public part of `ush_<id>_<secret>`."""
    tenant_id: UUID = Field(sa_column=Column(ForeignKey("tenant.id"), nullable=False))
    label: str = Field(sa_column=Column(Text, nullable=False))
    secret_hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    scopes: list[str] = Field(sa_column=texts())
    created_at: datetime = Field(sa_column=moment(now=True))
    expires_at: datetime = Field(sa_column=moment())
    revoked_at: datetime | None = Field(default=None, sa_column=moment(nullable=True))
    last_used_at: datetime | None = Field(default=None, sa_column=moment(nullable=True))
