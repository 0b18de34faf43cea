"""People who operate Usher: who they are, their sessions, and what guards their sign-in."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, LargeBinary, Text, text
from sqlmodel import Field, SQLModel

from models.tables.columns import moment


def _operator() -> Column[UUID]:
    return Column(ForeignKey("operator.id", ondelete="CASCADE"), nullable=False)


class Operator(SQLModel, table=True):
    """A person who may sign in to the pages."""

    __tablename__ = "operator"
    __table_args__ = (
        CheckConstraint(
            "role = ANY (ARRAY['viewer'::text, 'operator'::text, 'admin'::text])",
            name="operator_role",
        ),
        Index("operator_email", text("lower(email)"), unique=True),
    )

    id: UUID = Field(primary_key=True)
    name: str = Field(sa_column=Column(Text, nullable=False, unique=True))
    """Short name that people type and the audit log shows."""
    email: str = Field(sa_column=Column(Text, nullable=False))
    role: str = Field(sa_column=Column(Text, nullable=False))
    password_hash: str | None = Field(default=None, sa_column=Column(Text))
    """argon2; without one only links sign in."""
    created_at: datetime = Field(sa_column=moment(now=True))
    disabled_at: datetime | None = Field(default=None, sa_column=moment(nullable=True))
    last_sign_in_at: datetime | None = Field(default=None, sa_column=moment(nullable=True))


class OperatorSession(SQLModel, table=True):
    """One signed-in browser, known by the SHA-256 of its cookie's value."""

    __tablename__ = "operator_session"
    __table_args__ = (Index("operator_session_operator", "operator_id"),)

    id_hash: bytes = Field(sa_column=Column(LargeBinary, primary_key=True))
    operator_id: UUID = Field(sa_column=_operator())
    created_at: datetime = Field(sa_column=moment(now=True))
    seen_at: datetime = Field(sa_column=moment(now=True))
    expires_at: datetime = Field(sa_column=moment())


class SignInLink(SQLModel, table=True):
    """A link that signs in once, known by the SHA-256 of its token."""

    __tablename__ = "sign_in_link"
    __table_args__ = (Index("sign_in_link_operator", "operator_id"),)

    token_hash: bytes = Field(sa_column=Column(LargeBinary, primary_key=True))
    operator_id: UUID = Field(sa_column=_operator())
    created_at: datetime = Field(sa_column=moment(now=True))
    expires_at: datetime = Field(sa_column=moment())
    used_at: datetime | None = Field(default=None, sa_column=moment(nullable=True))


class SignInFailure(SQLModel, table=True):
    """One failed sign-in, by a keyed hash of the name or of the address it came from; kept to slow down guessing."""

    __tablename__ = "sign_in_failure"
    __table_args__ = (Index("sign_in_failure_key", "key", "failed_at"),)

    id: UUID = Field(primary_key=True)
    key: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    failed_at: datetime = Field(sa_column=moment(now=True))
