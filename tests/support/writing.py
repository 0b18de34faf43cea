"""Writes as Entra sends them, in both of its dialects (entra-wire.md §5.1)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.support.api import store

if TYPE_CHECKING:
    import uuid

    from models.settings import Settings
    from tests.support.api import Answer, Caller

PATCH_URN = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
DIALECTS = ("legacy", "compliant")


def setting(dialect: str, values: dict[str, Any], op: str = "replace") -> list[dict[str, Any]]:
    """Return the operations by which Entra sets attributes, by their paths.

    Legacy: an operation for each, its name capitalised, strings for booleans. Compliant: one without a path, with
    flat keys, and one for each path with a filter.
    """
    if dialect == "legacy":
        return [
            {"op": op.capitalize(), "path": path, "value": str(value) if isinstance(value, bool) else value}
            for path, value in values.items()
        ]
    operations = [{"op": op, "path": path, "value": value} for path, value in values.items() if "[" in path]
    flat = {path: value for path, value in values.items() if "[" not in path}
    return [*operations, {"op": op, "value": flat}] if flat else operations


def removing(dialect: str, *paths: str) -> list[dict[str, Any]]:
    """Return the operations by which Entra unassigns attributes."""
    return [{"op": "Remove" if dialect == "legacy" else "remove", "path": path} for path in paths]


async def patch(
    caller: Caller, user_id: str, operations: list[dict[str, Any]], query: str = "", **headers: str
) -> Answer:
    """PATCH a user; underscores in names of headers stand for hyphens."""
    body = json.dumps({"schemas": [PATCH_URN], "Operations": operations}).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await caller.send("PATCH", f"/Users/{user_id}{query}", body=body, headers=named)


async def put(caller: Caller, user_id: str, value: Any, query: str = "", **headers: str) -> Answer:
    """PUT a user."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await caller.send("PUT", f"/Users/{user_id}{query}", body=json.dumps(value).encode(), headers=named)


async def delete(caller: Caller, user_id: str, **headers: str) -> Answer:
    """DELETE a user."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await caller.send("DELETE", f"/Users/{user_id}", headers=named)


async def audited(settings: Settings, tenant_id: uuid.UUID, prefix: str = "scim.user.") -> list[dict[str, Any]]:
    """Return a tenant's audit events of some actions, oldest first."""
    async with store(settings) as connection:
        rows = await connection.fetch(
            "SELECT * FROM audit_event WHERE tenant_id = $1 AND starts_with(action, $2) ORDER BY occurred_at, id",
            tenant_id,
            prefix,
        )
    return [dict(row) for row in rows]
