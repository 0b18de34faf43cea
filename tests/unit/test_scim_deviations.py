"""What Entra does otherwise than SCIM wants, in words."""

from __future__ import annotations

from typing import Any

import pytest

from models.scim.deviations import deviations

ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"


def patch(*operations: dict[str, Any]) -> dict[str, Any]:
    return {"schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"], "Operations": list(operations)}


@pytest.mark.parametrize(
    ("method", "body", "query", "said"),
    [
        ("PATCH", patch({"op": "Add", "path": "title", "value": "x"}), "", "op is written Add, not add"),
        (
            "PATCH",
            patch({"op": "replace", "path": "active", "value": "False"}),
            "",
            'active is the string "False", not a boolean',
        ),
        (
            "PATCH",
            patch({"op": "add", "value": {'emails[type eq "work"].value': "x@y.example"}}),
            "",
            'a value without a path has names that are paths, such as emails[type eq "work"].value',
        ),
        (
            "PATCH",
            patch({"op": "remove", "path": "members", "value": [{"value": "1"}]}),
            "",
            "remove names its values beside the path",
        ),
        (
            "PATCH",
            patch({"op": "add", "path": f"{ENTERPRISE}:manager", "value": "2611-8915"}),
            "",
            "a manager is not an object with a value",
        ),
        ("POST", {"userName": "a", "department": None}, "", "department stands outside its extension"),
        ("POST", {"userName": "a", "id": "7"}, "", "id is sent, which only the server sets"),
        ("POST", {"userName": "a"}, "aadOptscim062020", "a feature flag of Entra stands in the query"),
        (
            "POST",
            {"schemas": [], "userName": "a", ENTERPRISE: {"department": "d"}},
            "",
            f"{ENTERPRISE} is sent, but not listed in schemas",
        ),
        (
            "POST",
            {"userName": "a", "roles": [{"value": "r", "displayName": "R"}]},
            "",
            "a role is packed as JSON into a string, or has displayName for display",
        ),
    ],
)
def test_a_tolerance_is_named(method: str, body: dict[str, Any], query: str, said: str) -> None:
    assert said in deviations(method, body, query)


@pytest.mark.parametrize(
    ("method", "body"),
    [
        (
            "POST",
            {
                "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User", ENTERPRISE],
                "userName": "a",
                "active": True,
                "emails": [{"type": "work", "value": "a@b.example", "primary": True}],
                ENTERPRISE: {"manager": {"value": "x"}},
            },
        ),
        ("PATCH", patch({"op": "replace", "path": "active", "value": False}, {"op": "remove", "path": "title"})),
        ("PATCH", patch({"op": "replace", "value": {"displayName": "x", "title": None}})),
    ],
)
def test_what_is_legal_is_not_mentioned(method: str, body: dict[str, Any]) -> None:
    assert deviations(method, body) == []


def test_a_long_list_of_them_is_cut() -> None:
    odd = patch(
        *({"op": op, "path": "active", "value": text} for op in ("Add", "ADD", "Replace") for text in ("True",))
    )
    odd["Operations"] += [
        {"op": "REPLACE", "path": "manager", "value": "x"},
        {"op": "Remove", "path": "a", "value": [1]},
    ]
    assert len(deviations("PATCH", odd, "aadOptscim062020")) == 6


@pytest.mark.parametrize("body", [{"Operations": 1}, {"Operations": [1]}, {"Operations": [{"op": 1, "path": 2}]}, {}])
def test_what_is_no_message_has_none(body: dict[str, Any]) -> None:
    assert deviations("PATCH", body) == []
