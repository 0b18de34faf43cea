"""Groups as Entra creates and changes them, in both of its dialects (entra-wire.md §7)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from models.scim.schema import GROUP_URN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.api import Answer, Caller

PATCH_URN = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
DIALECTS = ("legacy", "compliant")


def group(display_name: str, *members: str, **attributes: Any) -> dict[str, Any]:
    """Return a group as it is created, with the schema that is Microsoft's own."""
    microsofts = "http://schemas.microsoft.com/2006/11/ResourceManagement/ADSCIM/2.0/Group"
    doc = {"schemas": [GROUP_URN, microsofts], "displayName": display_name, "meta": {"resourceType": "Group"}}
    return doc | ({"members": references(members)} if members else {}) | attributes


def references(ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return members as Entra names them."""
    return [{"$ref": None, "value": one} for one in ids]


def adding(dialect: str, *ids: str) -> list[dict[str, Any]]:
    """Return the operation that adds members."""
    return [{"op": "Add" if dialect == "legacy" else "add", "path": "members", "value": references(ids)}]


def removing(dialect: str, *ids: str) -> list[dict[str, Any]]:
    """Return the operations that remove members: one with a list beside the path, or one for each with a filter."""
    if dialect == "legacy":
        return [{"op": "Remove", "path": "members", "value": references(ids)}]
    return [{"op": "remove", "path": f'members[value eq "{one}"]'} for one in ids]


def setting(dialect: str, **values: Any) -> list[dict[str, Any]]:
    """Return the operations that set attributes: one for each with a path, or one without."""
    if dialect == "legacy":
        return [{"op": "Replace", "path": path, "value": value} for path, value in values.items()]
    return [{"op": "replace", "value": values}]


async def create_group(caller: Caller, *args: Any, **attributes: Any) -> dict[str, Any]:
    """Create a group and return the answer's resource."""
    answer = await caller.post("/Groups", group(*args, **attributes))
    assert answer.status == 201, answer
    return dict(answer.json)


async def patch_group(caller: Caller, group_id: str, operations: Any, query: str = "", **headers: str) -> Answer:
    """PATCH a group; underscores in names of headers stand for hyphens."""
    body = json.dumps({"schemas": [PATCH_URN], "Operations": operations}).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await caller.send("PATCH", f"/Groups/{group_id}{query}", body=body, headers=named)


async def put_group(caller: Caller, group_id: str, value: Any, query: str = "", **headers: str) -> Answer:
    """PUT a group."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await caller.send("PUT", f"/Groups/{group_id}{query}", body=json.dumps(value).encode(), headers=named)


async def members_of(caller: Caller, group_id: str) -> list[str]:
    """Return the ids of a group's members, after checking how they are written."""
    answer = await caller.get(f"/Groups/{group_id}")
    assert answer.status == 200, answer
    members = answer.json.get("members", [])
    for member in members:
        assert member == {
            "value": member["value"],
            "$ref": f"{caller.scim_url}/{member['type']}s/{member['value']}",
            "type": member["type"],
        }
    return [member["value"] for member in members]


async def match_groups(caller: Caller, text: str, **query: Any) -> list[Any]:
    """Return the groups that a filter finds."""
    return (await caller.get("/Groups", filter=text, **query)).resources()
