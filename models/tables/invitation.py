"""Invitations: one e-mail each, and the single-use link in it."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, Column, Index, LargeBinary, Text, text
from sqlmodel import Field, SQLModel

from models.tables.columns import moment


class Invitation(SQLModel, table=True):
    """What became of inviting one user."""

    __tablename__ = "invitation"
    __table_args__ = (
        CheckConstraint(
            "state = ANY (ARRAY['pending'::text, 'sending'::text, 'sent'::text, 'accepted'::text, 'expired'::text,"
            " 'failed'::text])",
            name="invitation_state",
        ),
        Index("invitation_user", "tenant_id", "user_id", "generation", unique=True),
        Index("invitation_expiry", "expires_at", postgresql_where=text("state = 'sent'::text")),
        Index(
            "invitation_over",
            "expires_at",
            postgresql_where=text(
                "token_hash IS NOT NULL AND (state = ANY (ARRAY['accepted'::text, 'expired'::text]))"
            ),
        ),
        Index("invitation_unsent", "tenant_id", "state", "id", postgresql_where=text("state <> 'sent'::text")),
        Index("invitation_error", "error_code", "id", postgresql_where=text("error_code IS NOT NULL")),
        Index("invitation_token", "token_hash", unique=True, postgresql_where=text("token_hash IS NOT NULL")),
    )

    id: UUID = Field(primary_key=True)
    tenant_id: UUID
    user_id: UUID
    generation: int = Field(default=1, sa_column_kwargs={"server_default": text("1")})
    """Counts the invitations of one user: a resend is a new one."""
    email: str = Field(sa_column=Column(Text, nullable=False))
    state: str = Field(default="pending", sa_column=Column(Text, nullable=False, server_default="pending"))
    token_hash: bytes | None = Field(default=None, sa_column=Column(LargeBinary))
    """SHA-256 of the token in the link; set before the mail goes out, emptied when it is withdrawn."""
    message_id: str | None = Field(default=None, sa_column=Column(Text))
    error_code: str | None = Field(default=None, sa_column=Column(Text))
    error_detail: str | None = Field(default=None, sa_column=Column(Text))
    created_at: datetime = Field(sa_column=moment(now=True))
    sent_at: datetime | None = Field(default=None, sa_column=moment(nullable=True))
    expires_at: datetime | None = Field(default=None, sa_column=moment(nullable=True))
    accepted_at: datetime | None = Field(default=None, sa_column=moment(nullable=True))
