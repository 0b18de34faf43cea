"""Tenants: adding, finding and changing them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from uuid_utils.compat import uuid7

from models.address import is_address
from models.audit.record import Actor, Event, record
from models.errors import UsageError

if TYPE_CHECKING:
    from uuid import UUID

    from models.db import Connection

_NAME = re.compile(r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$")
_COLUMNS = (
    "id, name, display_name, sign_in_url, branding, invitations, invitation_delay_seconds, audit_days, created_at"
)
CHANGEABLE = ("display_name", "sign_in_url", "branding", "invitations", "invitation_delay_seconds", "audit_days")
FEWEST_AUDIT_DAYS = 90
_LONGEST_NAME = 200
_MOST_AUDIT_DAYS = 100_000
BRANDING = ("accent_color", "logo_url", "sender_name", "support_email")


_HOST = re.compile(r"^[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?$|^\[[0-9A-Fa-f:.]+\]$")


def _check_url(name: str, value: str) -> None:
    try:
        parts = urlsplit(value)
        host = parts.netloc.rpartition("@")[2].removesuffix(f":{parts.port}")
    except ValueError:
        host = ""
    if not _HOST.match(host) or parts.scheme not in ("http", "https") or not value.isprintable() or " " in value:
        raise UsageError(f"{name} must be an http(s) address, for example https://app.example.com/login.")


def _check_name(name: str, value: str) -> None:
    # It stands in the headers of mails, where a line break or an encoded word would be refused.
    if not value.strip() or not value.isprintable() or "=?" in value or len(value) > _LONGEST_NAME:
        raise UsageError(f"{name} must be one line of 1 to {_LONGEST_NAME} ordinary characters.")


def _check(changes: dict[str, Any]) -> None:
    if "display_name" in changes:
        _check_name("The display name", changes["display_name"])
    if changes.get("sign_in_url"):
        _check_url("The sign-in URL", changes["sign_in_url"])
    branding = changes.get("branding") or {}
    unknown = sorted(set(branding) - set(BRANDING))
    if unknown:
        raise UsageError(f"Unknown branding value {', '.join(unknown)}; there are {', '.join(BRANDING)}.")
    if branding.get("sender_name"):
        _check_name("sender_name", branding["sender_name"])
    if branding.get("support_email") and not is_address(branding["support_email"]):
        raise UsageError("support_email must be an e-mail address.")
    if branding.get("logo_url"):
        _check_url("logo_url", branding["logo_url"])
    if branding.get("accent_color") and not re.fullmatch(r"#[0-9a-fA-F]{6}", branding["accent_color"]):
        raise UsageError("accent_color must look like #1f6feb.")
    if not FEWEST_AUDIT_DAYS <= changes.get("audit_days", FEWEST_AUDIT_DAYS) < _MOST_AUDIT_DAYS:
        raise UsageError(f"Audit events are kept {FEWEST_AUDIT_DAYS} days at least.")
    if changes.get("invitation_delay_seconds", 0) < 0:
        raise UsageError("The invitation delay cannot be negative.")


async def add_tenant(
    connection: Connection, *, name: str, actor: Actor, correlation_id: UUID, **values: Any
) -> dict[str, Any]:
    """Add a tenant and audit it; ``values`` may hold any of `CHANGEABLE`.

    Raises:
        UsageError: the name is malformed or taken, or a value is not allowed.
    """
    if not _NAME.match(name):
        raise UsageError("A tenant's name has lower-case letters, digits and dashes, at most 63.")
    values = {key: value for key, value in values.items() if value is not None}
    values.setdefault("display_name", name)
    _check(values)
    async with connection.transaction():
        row = await connection.fetchrow(
            "INSERT INTO tenant (id, name, display_name, sign_in_url, branding, invitations, invitation_delay_seconds)"  # noqa: S608  constants
            f" VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (name) DO NOTHING RETURNING {_COLUMNS}",
            uuid7(),
            name,
            values["display_name"],
            values.get("sign_in_url"),
            values.get("branding", {}),
            values.get("invitations", True),
            values.get("invitation_delay_seconds", 0),
        )
        if row is None:
            raise UsageError(f"There is a tenant {name} already.")
        await record(
            connection,
            [
                Event(
                    action="tenant.settings.create",
                    phase="applied",
                    actor=actor,
                    correlation_id=correlation_id,
                    tenant_id=row["id"],
                    targets=[{"type": "Tenant", "id": str(row["id"]), "label": name}],
                    diff=[{"op": "add", "path": key, "after": value} for key, value in sorted(values.items())],
                )
            ],
        )
    return dict(row)


async def find_tenant(connection: Connection, name: str) -> dict[str, Any]:
    """Return the tenant called ``name``.

    Raises:
        UsageError: there is none.
    """
    row = await connection.fetchrow(f"SELECT {_COLUMNS} FROM tenant WHERE name = $1", name)  # noqa: S608  constants
    if row is None:
        raise UsageError(f"There is no tenant {name}. `usher tenant list` shows them.")
    return dict(row)


async def tenant_names(connection: Connection) -> list[str]:
    """Return the short name of every tenant, in order."""
    return [row["name"] for row in await connection.fetch("SELECT name FROM tenant ORDER BY name")]


async def list_tenants(connection: Connection) -> list[dict[str, Any]]:
    """Return every tenant in order of name, with the number of its users."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS}, (SELECT count(*) FROM users WHERE tenant_id = tenant.id) AS users"  # noqa: S608  constants
        " FROM tenant ORDER BY name"
    )
    return [dict(row) for row in rows]


async def change_tenant(
    connection: Connection, name: str, changes: dict[str, Any], *, actor: Actor, correlation_id: UUID
) -> dict[str, Any]:
    """Change some of `CHANGEABLE` and audit what differs.

    Raises:
        UsageError: there is no such tenant, or a value is not allowed.
    """
    _check(changes)
    async with connection.transaction():
        before = await find_tenant(connection, name)
        diff = [
            {"op": "replace", "path": key, "before": before[key], "after": value}
            for key, value in sorted(changes.items())
            if before[key] != value
        ]
        for item in diff:
            # The column is one of a constant tuple, never a person's text.
            column = CHANGEABLE[CHANGEABLE.index(str(item["path"]))]
            await connection.execute(
                f"UPDATE tenant SET {column} = $2 WHERE id = $1",  # noqa: S608  see above
                before["id"],
                item["after"],
            )
        if diff:
            await record(
                connection,
                [
                    Event(
                        action="tenant.settings.change",
                        phase="applied",
                        actor=actor,
                        correlation_id=correlation_id,
                        tenant_id=before["id"],
                        targets=[{"type": "Tenant", "id": str(before["id"]), "label": name}],
                        diff=diff,
                    )
                ],
            )
        return await find_tenant(connection, name)
