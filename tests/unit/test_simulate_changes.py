from __future__ import annotations

import json
from typing import Any

from cli.simulate.body import ENTERPRISE, USER
from cli.simulate.changes import (
    MANAGER,
    PATCH_OP,
    Change,
    changed,
    manager_operation,
    operations,
    patch,
    role_operation,
    spoken,
    value_at,
    with_manager,
    with_role,
)
from cli.simulate.group_body import add_members, groups, remove_members, rename
from models.scim.patch import apply_patch
from models.scim.schema import USER as USER_SCHEMA

DOC: dict[str, Any] = {
    "schemas": [USER],
    "userName": "ana@x.example",
    "active": True,
    "displayName": "Ana Nováková",
    "name": {"givenName": "Ana"},
    "emails": [{"type": "work", "value": "ana@x.example"}],
}
MANY = [
    Change("displayName", "Ana D"),
    Change("name.familyName", "D"),
    Change('emails[type eq "work"].value', "d@x.example"),
    Change('phoneNumbers[type eq "mobile"].value', "1"),
    Change(f"{ENTERPRISE}:department", "Legal"),
    Change("active", value=False),
]


def test_legacy_names_each_attribute_by_its_path_and_sends_booleans_as_strings() -> None:
    assert operations(MANY, DOC, "legacy") == [
        {"op": "Replace", "path": "displayName", "value": "Ana D"},
        {"op": "Add", "path": "name.familyName", "value": "D"},
        {"op": "Replace", "path": 'emails[type eq "work"].value', "value": "d@x.example"},
        {"op": "Add", "path": 'phoneNumbers[type eq "mobile"].value', "value": "1"},
        {"op": "Add", "path": f"{ENTERPRISE}:department", "value": "Legal"},
        {"op": "Replace", "path": "active", "value": "False"},
    ]


def test_compliant_sends_flat_keys_without_a_path_and_value_paths_apart() -> None:
    assert operations(MANY, DOC, "compliant") == [
        {"op": "replace", "path": 'emails[type eq "work"].value', "value": "d@x.example"},
        {"op": "add", "path": 'phoneNumbers[type eq "mobile"].value', "value": "1"},
        {"op": "add", "value": {"name.familyName": "D", f"{ENTERPRISE}:department": "Legal"}},
        {"op": "replace", "value": {"displayName": "Ana D", "active": False}},
    ]
    assert operations([Change("active", value=False)], DOC, "compliant") == [
        {"op": "replace", "path": "active", "value": False}
    ]


def test_a_change_is_read_as_the_server_reads_it() -> None:
    after = changed(DOC, MANY)
    assert after == {
        "schemas": [USER, ENTERPRISE],
        "userName": "ana@x.example",
        "active": False,
        "displayName": "Ana D",
        "name": {"givenName": "Ana", "familyName": "D"},
        "emails": [{"type": "work", "value": "d@x.example"}],
        "phoneNumbers": [{"type": "mobile", "value": "1"}],
        ENTERPRISE: {"department": "Legal"},
    }
    assert "phoneNumbers" not in DOC
    for said in "legacy", "compliant":
        assert apply_patch(DOC, patch(operations(MANY, DOC, said)), USER_SCHEMA).doc == after


def test_a_manager_comes_in_every_form_and_goes_in_two() -> None:
    assert manager_operation("9", DOC, "legacy", 0) == {"op": "Add", "path": MANAGER, "value": "9"}
    listed = [{"$ref": None, "value": "9"}]
    assert manager_operation("9", DOC, "legacy", 1) == {"op": "Add", "path": "manager", "value": listed}
    assert manager_operation("9", DOC, "compliant", 0) == {"op": "add", "path": MANAGER, "value": {"value": "9"}}
    managed = with_manager(DOC, "9")
    assert value_at(managed, MANAGER) == {"value": "9"}
    assert manager_operation("8", managed, "legacy", 0)["op"] == "Replace"
    assert manager_operation("8", managed, "compliant", 1)["op"] == "replace"
    assert manager_operation(None, managed, "legacy", 0) == {"op": "Replace", "path": MANAGER, "value": ""}
    assert manager_operation(None, managed, "compliant", 1) == {"op": "remove", "path": MANAGER}
    assert with_manager(managed, None) == DOC
    assert with_manager(DOC, None) == DOC


def test_a_role_is_added_as_text_or_replaces_all() -> None:
    [role] = role_operation("Auditor", "legacy")["value"]
    assert json.loads(role["value"]) == {"id": "role-Auditor", "value": "Auditor", "displayName": "Auditor"}
    assert role_operation("Auditor", "compliant")["op"] == "replace"
    admin = DOC | {"roles": [{"value": "Admin"}]}
    for said in "legacy", "compliant":
        sent = patch([role_operation("Auditor", said)])
        assert apply_patch(admin, sent, USER_SCHEMA).doc == with_role(admin, "Auditor", said)


def test_members_are_added_alike_and_removed_unlike() -> None:
    members = [{"$ref": None, "value": "1"}, {"$ref": None, "value": "2"}]
    assert add_members(["1", "2"], "legacy") == [{"op": "Add", "path": "members", "value": members}]
    assert add_members(["1", "2"], "compliant") == [{"op": "add", "path": "members", "value": members}]
    assert remove_members(["1", "2"], "legacy") == [{"op": "Remove", "path": "members", "value": members}]
    assert remove_members(["1", "2"], "compliant") == [
        {"op": "remove", "path": 'members[value eq "1"]'},
        {"op": "remove", "path": 'members[value eq "2"]'},
    ]


def test_a_group_is_renamed_by_path_or_in_an_object() -> None:
    assert rename("X", "legacy", whole=True) == [{"op": "Replace", "path": "displayName", "value": "X"}]
    assert rename("X", "compliant", whole=False) == [{"op": "replace", "path": "displayName", "value": "X"}]
    assert rename("X", "compliant", whole=True) == [{"op": "replace", "value": {"displayName": "X"}}]


def test_groups_of_a_seed_are_the_same_again_and_created_without_members() -> None:
    first, again, other = groups(1, 9), groups(1, 12), groups(2, 9)
    assert [group.body() for group in first] == [group.body() for group in again[:9]]
    assert not {group.display_name for group in first} & {group.display_name for group in other}
    assert all(not group.body().get("members") for group in first)
    assert {len(group.body()["schemas"]) for group in first} == {1, 2}


def test_mixed_takes_turns() -> None:
    assert [spoken("mixed", turn) for turn in range(3)] == ["legacy", "compliant", "legacy"]
    assert spoken("legacy", 1) == "legacy"
    assert spoken("compliant", 0) == "compliant"
    assert patch([])["schemas"] == [PATCH_OP]
