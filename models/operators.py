"""The people who operate Usher: who they are, and what their role lets them do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg
from uuid_utils.compat import uuid7

from models.address import is_address
from models.audit.record import Actor, Event, record
from models.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID

    from models.db import Connection

_VIEWER = frozenset({"view_jobs", "view_audit"})
_OPERATOR = _VIEWER | {
    *("reveal_args", "retry_job", "cancel_job", "discard_job", "bulk", "pause_queue", "quiet_worker"),
    *("resend_email", "export_audit"),
}
_ADMIN = _OPERATOR | {"capture_requests", "manage_tokens", "manage_streams", "manage_operators"}
PERMISSIONS: dict[str, frozenset[str]] = {"viewer": _VIEWER, "operator": _OPERATOR, "admin": _ADMIN}
"""What each role may do; whatever is not named here nobody may."""
ROLES = tuple(PERMISSIONS)

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_COLUMNS = "id, name, email, role, password_hash, created_at, disabled_at, last_sign_in_at"


@dataclass(frozen=True, slots=True)
class Operator:
    """A person who may sign in to the pages."""

    id: UUID
    name: str
    email: str
    role: str
    has_password: bool
    created_at: datetime
    disabled_at: datetime | None = None
    last_sign_in_at: datetime | None = None

    @property
    def actor(self) -> Actor:
        """Who the audit log names for what this person does."""
        return Actor("operator", str(self.id), self.name)

    def may(self, permission: str) -> bool:
        """Tell whether the person's role includes ``permission``."""
        return permission in PERMISSIONS.get(self.role, frozenset())


def read_operator(row: Mapping[str, Any] | asyncpg.Record) -> Operator:
    """Make an Operator of a row of the table."""
    return Operator(
        id=row["id"],
        name=row["name"],
        email=row["email"],
        role=row["role"],
        has_password=row["password_hash"] is not None,
        created_at=row["created_at"],
        disabled_at=row["disabled_at"],
        last_sign_in_at=row["last_sign_in_at"],
    )


def _check(name: str | None, email: str | None, role: str | None) -> None:
    if name is not None and not _NAME.fullmatch(name):
        raise UsageError(
            "A name is 1 to 64 small letters, digits, dots, dashes and underscores, and begins and ends with a letter"
            " or digit."
        )
    if email is not None and not is_address(email):
        raise UsageError("The e-mail address is not one.")
    if role is not None and role not in PERMISSIONS:
        raise UsageError(f"There is no such role; roles are {', '.join(ROLES)}.")


def _event(action: str, operator: Operator, actor: Actor, correlation_id: UUID, before: dict[str, Any]) -> Event:
    after = {"email": operator.email, "role": operator.role, "disabled": operator.disabled_at is not None}
    diff = [
        {"op": "replace" if before else "add", "path": path, "before": before.get(path), "after": value}
        for path, value in after.items()
        if before.get(path) != value
    ]
    return Event(
        action=action,
        phase="applied",
        actor=actor,
        correlation_id=correlation_id,
        targets=[target(operator)],
        diff=diff or None,
    )


def target(operator: Operator) -> dict[str, str]:
    """Return how audit events name an operator that something was done to."""
    return {"type": "Operator", "id": str(operator.id), "label": operator.name}


async def add_operator(
    connection: Connection, *, name: str, email: str, role: str, actor: Actor, correlation_id: UUID
) -> Operator:
    """Add a person, who has no password yet.

    Raises:
        UsageError: a value is not allowed, or the name or the address is taken.
    """
    name, email = name.strip().lower(), email.strip()
    _check(name, email, role)
    async with connection.transaction():
        row = await connection.fetchrow(
            "INSERT INTO operator (id, name, email, role) VALUES ($1, $2, $3, $4)"  # noqa: S608  constants only
            f" ON CONFLICT DO NOTHING RETURNING {_COLUMNS}",
            uuid7(),
            name,
            email,
            role,
        )
        if row is None:
            raise UsageError(f"There is an operator already with the name {name} or that e-mail address.")
        operator = read_operator(row)
        await record(connection, [_event("auth.operator.add", operator, actor, correlation_id, {})])
    return operator


async def list_operators(connection: Connection | asyncpg.Pool) -> list[Operator]:
    """Return everybody, by name; the disabled last."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM operator ORDER BY disabled_at IS NOT NULL, name"  # noqa: S608  constants only
    )
    return [read_operator(row) for row in rows]


async def find_operator(connection: Connection | asyncpg.Pool, name: str) -> Operator:
    """Return the operator with this name.

    Raises:
        UsageError: there is none.
    """
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM operator WHERE name = $1",  # noqa: S608  constants only
        name.strip().lower(),
    )
    if row is None:
        raise UsageError(f"There is no operator {name}. `usher operator list` shows them.")
    return read_operator(row)


async def change_operator(
    connection: Connection,
    name: str,
    *,
    email: str | None = None,
    role: str | None = None,
    disabled: bool | None = None,
    actor: Actor,
    correlation_id: UUID,
) -> Operator:
    """Change what is given and leave the rest; whoever is disabled is signed out everywhere.

    Raises:
        UsageError: no such operator, a value that is not allowed, an address that is taken, or nobody would be left
            who may manage operators.
    """
    email = email.strip() if email is not None else None
    _check(None, email, role)
    try:
        async with connection.transaction():
            # One change at a time, so that the last two admins cannot disable each other.
            rows = await connection.fetch(
                f"SELECT {_COLUMNS} FROM operator WHERE name = $1 OR role = 'admin'"  # noqa: S608  constants only
                " ORDER BY id FOR UPDATE",
                name.strip().lower(),
            )
            known = [read_operator(row) for row in rows]
            before = next((operator for operator in known if operator.name == name.strip().lower()), None)
            if before is None:
                raise UsageError(f"There is no operator {name}. `usher operator list` shows them.")
            row = await connection.fetchrow(
                "UPDATE operator SET email = coalesce($2, email), role = coalesce($3, role),"  # noqa: S608  as above
                " disabled_at = CASE WHEN $4::bool THEN coalesce(disabled_at, now()) WHEN NOT $4 THEN NULL"
                f" ELSE disabled_at END WHERE id = $1 RETURNING {_COLUMNS}",
                before.id,
                email,
                role,
                disabled,
            )
            assert row is not None  # noqa: S101  it is locked
            after = read_operator(row)
            admins = [o for o in known if o.id != after.id] + [after]
            if _is_admin(before) and not any(map(_is_admin, admins)):
                raise UsageError(f"{before.name} is the last admin; make somebody else admin first.")
            if after.disabled_at:
                await connection.execute("DELETE FROM operator_session WHERE operator_id = $1", after.id)
                await connection.execute("DELETE FROM sign_in_link WHERE operator_id = $1", after.id)
            old = {"email": before.email, "role": before.role, "disabled": before.disabled_at is not None}
            action = "auth.operator.disable" if after.disabled_at and not before.disabled_at else "auth.operator.change"
            await record(connection, [_event(action, after, actor, correlation_id, old)])
    except asyncpg.UniqueViolationError:
        raise UsageError("Another operator has that e-mail address.") from None
    return after


def _is_admin(operator: Operator) -> bool:
    return operator.role == "admin" and operator.disabled_at is None
