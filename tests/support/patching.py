"""A user to patch, and what holds for every PATCH on it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from models.scim.document import read_user
from models.scim.patch import Patched, apply_patch
from models.scim.schema import ENTERPRISE_URN, USER

PATCH_URN = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
BADGE_URN = "urn:example:scim:Badge:2.0:User"
BADGE = {
    "id": BADGE_URN,
    "attributes": [
        {"name": "level", "type": "integer"},
        {"name": "serial", "type": "string", "mutability": "immutable"},
        {"name": "tags", "type": "string", "multiValued": True, "caseExact": True},
        {"name": "since", "type": "dateTime"},
    ],
}
SCHEMA = USER.with_extensions([BADGE])
ANA = read_user(
    {
        "userName": "ana@x.example",
        "externalId": "ana",
        "displayName": "Ana Nováková",
        "title": "Buyer",
        "active": True,
        "name": {"givenName": "Ana", "familyName": "Nováková"},
        "emails": [
            {"type": "work", "value": "ana@x.example", "primary": True},
            {"type": "home", "value": "ana@h.example"},
        ],
        "roles": [{"value": "Buyer", "primary": True, "type": "WindowsAzureActiveDirectoryRole"}],
        ENTERPRISE_URN: {"department": "Sales", "manager": {"value": "9c1e", "$ref": "https://x/Users/9c1e"}},
        BADGE_URN: {"tags": ["red"], "serial": "A1"},
    },
    SCHEMA,
).doc
BARE = read_user({"userName": "ana@x.example"}).doc


def patched(doc: dict[str, Any], *operations: dict[str, Any], **options: Any) -> Patched:
    before = deepcopy(doc)
    try:
        result = apply_patch(doc, {"schemas": [PATCH_URN], "Operations": list(operations)}, SCHEMA, **options)
    finally:
        assert doc == before, "the document that was handed in has changed"
    assert read_user(result.doc, SCHEMA).doc == {"active": True, **result.doc}, "not as a document is stored"
    assert result.changed == (result.doc != before)
    return result


def op(name: str, path: str | None = None, *value: Any) -> dict[str, Any]:
    operation: dict[str, Any] = {"op": name}
    if path is not None:
        operation["path"] = path
    if value:
        operation["value"] = value[0]
    return operation


def changed(doc: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {name: value for name, value in (doc | values).items() if value is not None}
