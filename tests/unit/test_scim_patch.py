"""PATCH on documents by the numbers of entra-cases.md (C to G), in both of Entra's dialects (entra-wire.md §5)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from models.errors import (
    InvalidPathError,
    InvalidSyntaxError,
    InvalidValueError,
    MutabilityError,
    NoTargetError,
)
from models.scim.patch import apply_patch
from models.scim.schema import ENTERPRISE_URN, USER_URN
from tests.support.patching import ANA, BADGE_URN, BARE, PATCH_URN, SCHEMA, changed, op, patched

# ── entra-cases.md D


@pytest.mark.parametrize(("verb", "path"), [("Add", "nickName"), ("ADD", "NICKNAME"), ("add", f"{USER_URN}:nickName")])
def test_62_71_82_add_replaces_a_single_value_in_any_spelling(verb: str, path: str) -> None:
    assert patched(changed(BARE, nickName="A"), op(verb, path, "B")).doc["nickName"] == "B"


@pytest.mark.parametrize("value", ["False", "false", False])
def test_63_disable(value: Any) -> None:
    assert patched(ANA, op("Replace", "active", value)).doc["active"] is False
    assert patched(ANA, op("replace", None, {"active": value})).doc["active"] is False
    assert patched(ANA, op("Add", "ACTIVE", value)).doc["active"] is False


@pytest.mark.parametrize("value", ["0", "no", "", "FALSE ", 0, 1, [False]])
def test_64_what_is_no_boolean_is_refused(value: Any) -> None:
    with pytest.raises(InvalidValueError, match=r"Operation 1 \(replace\): active must be"):
        patched(ANA, op("Replace", "active", value))


def test_65_enable() -> None:
    assert patched(changed(ANA, active=False), op("Replace", "active", "True")).doc["active"] is True


def test_66_path_less_dotted_keys() -> None:
    result = patched(
        ANA,
        op(
            "replace",
            None,
            {"name.givenName": "Anna", "NAME.FamilyName": "N", f"{ENTERPRISE_URN}:department": "Legal", "title": "T"},
        ),
    )
    assert result.doc["name"] == {"givenName": "Anna", "familyName": "N"}
    assert result.doc[ENTERPRISE_URN]["department"] == "Legal"
    assert result.doc["title"] == "T"
    assert "name.givenName" not in result.doc


def test_66_path_less_nested_objects_are_merged() -> None:
    result = patched(ANA, op("replace", None, {"name": {"familyName": "Dvořáková"}}))
    assert result.doc["name"] == {"givenName": "Ana", "familyName": "Dvořáková"}


@pytest.mark.parametrize("verb", ["add", "replace"])
def test_67_path_less_extension_object_is_merged(verb: str) -> None:
    result = patched(ANA, op(verb, None, {ENTERPRISE_URN: {"Division": "D"}}))
    assert result.doc[ENTERPRISE_URN] == ANA[ENTERPRISE_URN] | {"division": "D"}
    result = patched(BARE, op(verb, None, {ENTERPRISE_URN: {"department": "Sales"}}))
    assert result.doc[ENTERPRISE_URN] == {"department": "Sales"}
    assert result.doc["schemas"] == [USER_URN, ENTERPRISE_URN]
    assert patched(BARE, op(verb, ENTERPRISE_URN, {"department": "Sales"})).doc == result.doc


@pytest.mark.parametrize("verb", ["Add", "Replace"])
def test_68_selected_values_come_to_be_where_they_are_not(verb: str) -> None:
    result = patched(BARE, op(verb, 'phoneNumbers[type eq "work"].value', "420"), op("Replace", "active", "False"))
    assert result.doc["phoneNumbers"] == [{"type": "work", "value": "420"}]
    assert result.doc["active"] is False
    result = patched(BARE, op(verb, 'emails[type eq "work" and primary eq "True"]', {"value": "a@x"}))
    assert result.doc["emails"] == [{"type": "work", "primary": True, "value": "a@x"}]
    result = patched(BARE, op(verb, None, {'emails[type eq "work"].value': "a@x"}))
    assert result.doc["emails"] == [{"type": "work", "value": "a@x"}]


@pytest.mark.parametrize("condition", ['type ne "work"', 'type eq "work" or type eq "home"', "type pr", "type eq null"])
def test_68_a_filter_that_describes_no_value_has_no_target(condition: str) -> None:
    with pytest.raises(NoTargetError, match=r"No value of phoneNumbers\.value matches"):
        patched(BARE, op("replace", f'phoneNumbers[not ({condition}) and value eq "1"].value', "2"))
    if "type pr" in condition or "or" in condition:
        with pytest.raises(NoTargetError):
            patched(BARE, op("add", f"phoneNumbers[{condition}].value", "2"))


def test_68_a_value_that_contradicts_its_filter_is_not_made() -> None:
    for path, value in (
        ('emails[type eq "work"].type', "home"),
        ('emails[type eq "work"]', {"type": "home", "value": "a@x"}),
        (f'{BADGE_URN}:tags[value eq "red"]', "pink"),
    ):
        with pytest.raises(InvalidValueError, match="contradicts the filter"):
            patched(BARE, op("add", path, value))


def test_69_several_operations_build_one_element() -> None:
    work = 'addresses[type eq "work"]'
    result = patched(
        BARE,
        op("Add", f"{work}.Formatted", "Street 1, Brno"),
        op("Add", f"{work}.locality", "Brno"),
        op("Add", f"{work}.region", "JMK"),
    )
    assert result.doc["addresses"] == [
        {"type": "work", "formatted": "Street 1, Brno", "locality": "Brno", "region": "JMK"}
    ]
    work = 'emails[type eq "work"]'
    result = patched(
        BARE, op("Add", f"{work}.primary", "True"), op("Add", f"{work}.display", "A"), op("Add", f"{work}.value", "a@x")
    )
    assert result.doc["emails"] == [{"type": "work", "primary": True, "display": "A", "value": "a@x"}]


def test_72_unknown_attributes_are_left_out_and_named() -> None:
    result = patched(
        ANA,
        op("Replace", "favouriteColour", "red"),
        op("Replace", 'pets[name eq "secret"].age', 3),
        op("Replace", 'emails[type eq "work"].colour', "red"),
        op("Remove", "name.nonsense"),
        op("Replace", "urn:example:unknown:2.0:User:x", "y"),
        op("Replace", "active", "False"),
        op("add", None, {"title": "T", "x y": 1, "": 2, "colour": 3, ENTERPRISE_URN: {"pet": 4}, "name": {"nick": 5}}),
    )
    assert (result.doc["active"], result.doc["title"]) == (False, "T")
    assert result.ignored == (
        "favouriteColour",
        "pets.age",
        "emails.colour",
        "name.nonsense",
        "urn:example:unknown:2.0:User:x",
        "x y",
        "",
        "colour",
        "pet",
        "name.nick",
    )


def test_74_a_repeated_patch_changes_nothing() -> None:
    operations = [
        op("Replace", "displayName", "Ana D"),
        op("Add", 'emails[type eq "work"].value', "a@x.example"),
        op("Add", "roles", [{"value": '{"id":"1","value":"Admin","displayName":"Administrator"}'}]),
        op("add", None, {f"{ENTERPRISE_URN}:manager": "m1"}),
        op("Remove", "title"),
    ]
    first = patched(ANA, *operations)
    assert first.changed
    second = patched(first.doc, *operations)
    assert not second.changed
    assert second.doc == first.doc


@pytest.mark.parametrize(
    "bad",
    [op("replace", "active", "maybe"), op("remove"), op("replace", "id", "x"), op("replace", "emails[", 1), op("sing")],
)
def test_75_one_bad_operation_and_nothing_is_applied(bad: dict[str, Any]) -> None:
    with pytest.raises((InvalidValueError, NoTargetError, MutabilityError, InvalidPathError, InvalidSyntaxError)):
        patched(ANA, op("replace", "title", "T"), bad, op("replace", "nickName", "N"))


def test_76_further_keys_are_ignored() -> None:
    body = {"id": "x", "Schemas": [PATCH_URN], "operations": [{"OP": "Add", "Path": "title", "VALUE": "T", "name": 1}]}
    assert apply_patch(BARE, body, SCHEMA).doc["title"] == "T"


@pytest.mark.parametrize("nothing", ["", None])
def test_79_an_empty_string_and_null_unassign(nothing: Any) -> None:
    for verb in ("Replace", "Add"):
        doc = patched(
            ANA,
            op(verb, "title", nothing),
            op(verb, "name.familyName", nothing),
            op(verb, 'emails[type eq "work"].value', nothing),
            op(verb, f"{ENTERPRISE_URN}:department", nothing),
        ).doc
        assert "title" not in doc
        assert doc["name"] == {"givenName": "Ana"}
        assert doc["emails"] == [ANA["emails"][1]]
        assert "department" not in doc[ENTERPRISE_URN]
    doc = patched(ANA, op("replace", None, {"title": nothing, "name": {"givenName": nothing}, "emails": nothing})).doc
    assert "title" not in doc
    assert doc["name"] == {"familyName": "Nováková"}
    assert "emails" not in doc
    assert ENTERPRISE_URN not in patched(ANA, op("replace", None, {ENTERPRISE_URN: nothing})).doc
    assert "name" not in patched(ANA, op("replace", "name", nothing)).doc
    assert patched(ANA, op("replace", 'emails[type eq "home"]', nothing)).doc["emails"] == ANA["emails"][:1]


def test_79_clearing_what_is_not_there_changes_nothing() -> None:
    operations = [
        op("Replace", path, "") for path in ("title", "name.givenName", "externalId", f"{ENTERPRISE_URN}:manager")
    ]
    assert not patched(
        BARE, *operations, op("Replace", 'phoneNumbers[type eq "work"].value', ""), op("Remove", "emails")
    ).changed


def test_81_rename() -> None:
    assert patched(ANA, op("Replace", "userName", "new@x.example")).doc["userName"] == "new@x.example"


@pytest.mark.parametrize("value", ["", None])
def test_81_a_user_name_cannot_be_unassigned(value: Any) -> None:
    for operation in (op("Replace", "userName", value), op("add", None, {"userName": value}), op("Remove", "userName")):
        with pytest.raises(MutabilityError, match="userName is required"):
            patched(ANA, operation)
    with pytest.raises(InvalidValueError, match="blank"):
        patched(ANA, op("Replace", "userName", " "))


def test_83_add_appends_to_a_list_of_the_tenants_own() -> None:
    tags = f"{BADGE_URN}:tags"
    assert patched(ANA, op("Add", tags, ["blue", "red", "RED"])).doc[BADGE_URN]["tags"] == ["red", "blue", "RED"]
    assert patched(ANA, op("Add", tags, "blue")).doc[BADGE_URN]["tags"] == ["red", "blue"]
    assert patched(ANA, op("Replace", f'{tags}[value eq "red"]', "pink")).doc[BADGE_URN]["tags"] == ["pink"]
    assert patched(BARE, op("Add", f'{tags}[value eq "red"]', "red")).doc[BADGE_URN]["tags"] == ["red"]
    assert "tags" not in patched(ANA, op("Remove", tags, ["red"])).doc[BADGE_URN]
    assert "tags" not in patched(ANA, op("Remove", f'{tags}[value eq "red"]')).doc[BADGE_URN]
    assert "tags" not in patched(ANA, op("Remove", f'{tags} eq "red"')).doc[BADGE_URN]


# ── entra-cases.md E, C, F, G


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (f"{ENTERPRISE_URN}:manager", "m1"),
        (f"{ENTERPRISE_URN}:manager", {"value": "m1"}),
        ("manager", [{"$ref": None, "value": "m1"}]),
        ("Manager", "m1"),
        (f"{ENTERPRISE_URN}:manager.value", "m1"),
        ("manager.value", "m1"),
    ],
)
def test_87_manager_in_every_shape(path: str, value: Any) -> None:
    for verb in ("Add", "Replace"):
        for doc in (ANA, BARE):
            assert patched(doc, op(verb, path, value)).doc[ENTERPRISE_URN]["manager"] == {"value": "m1"}
            assert patched(doc, op(verb, None, {path: value})).doc[ENTERPRISE_URN]["manager"] == {"value": "m1"}


@pytest.mark.parametrize(
    "operation",
    [
        op("Replace", f"{ENTERPRISE_URN}:manager", ""),
        op("Replace", f"{ENTERPRISE_URN}:manager", {"value": ""}),
        op("Replace", f"{ENTERPRISE_URN}:manager.value", ""),
        op("Remove", f"{ENTERPRISE_URN}:manager"),
        op("Remove", "manager"),
        op("replace", None, {ENTERPRISE_URN: {"manager": None}}),
    ],
)
def test_88_manager_is_removed(operation: dict[str, Any]) -> None:
    assert patched(ANA, operation).doc[ENTERPRISE_URN] == {"department": "Sales"}
    alone = changed(ANA, **{ENTERPRISE_URN: {"manager": {"value": "9c1e"}}})
    result = patched(alone, operation).doc
    assert ENTERPRISE_URN not in result
    assert ENTERPRISE_URN not in result["schemas"]


def test_91_roles_in_every_shape() -> None:
    packed = json.dumps({"id": "06b0", "value": "Admin", "displayName": "Administrator"})
    admin = {"value": "Admin", "display": "Administrator"}
    assert patched(BARE, op("Add", "roles", [{"value": packed}])).doc["roles"] == [admin]
    assert patched(ANA, op("Add", "roles", [{"value": packed}])).doc["roles"] == [ANA["roles"][0], admin]
    assert patched(BARE, op("Add", 'roles[primary eq "True"].value', packed)).doc["roles"] == [
        admin | {"primary": True}
    ]
    single = patched(ANA, op("Replace", 'roles[primary eq "True"].value', "Admin")).doc["roles"]
    assert single == [ANA["roles"][0] | {"value": "Admin"}]
    assertive = [{"primary": False, "type": "T", "display": "User", "value": "User"}]
    assert patched(ANA, op("replace", "roles", assertive)).doc["roles"] == assertive
    assert "roles" not in patched(ANA, op("replace", "roles", [])).doc
    with pytest.raises(InvalidValueError, match="roles"):
        patched(ANA, op("Add", "roles", [{"value": '{"id":'}]))


def test_91_the_same_role_without_its_type_is_not_added_again() -> None:
    result = patched(ANA, op("Add", "roles", [{"value": "BUYER", "displayName": "Buyer"}]))
    assert result.doc["roles"] == [ANA["roles"][0] | {"display": "Buyer"}]
    untyped = changed(ANA, roles=[{"value": "Buyer"}])
    assert patched(untyped, op("Add", "roles", ANA["roles"])).doc["roles"] == ANA["roles"]


@pytest.mark.parametrize(
    "value",
    [[{"value": "ana@h.example"}], {"value": "ANA@H.example", "$ref": None}, "ana@h.example", [{"type": "HOME"}]],
)
def test_93_remove_with_a_value_removes_only_that(value: Any) -> None:
    assert patched(ANA, op("Remove", "emails", value)).doc["emails"] == ANA["emails"][:1]


@pytest.mark.parametrize(
    "value", [[], [{"value": "x"}], [{"type": "work", "value": "ana@h.example"}], [{}], [{"x": "y"}]]
)
def test_97_removing_what_is_not_there_changes_nothing(value: Any) -> None:
    assert not patched(ANA, op("Remove", "emails", value)).changed
    assert not patched(ANA, op("remove", 'emails[value eq "x"]'), op("remove", 'emails[type eq "x"].value')).changed


def test_60_the_newest_primary_wins() -> None:
    result = patched(ANA, op("Replace", 'emails[type eq "home"].primary', "True"))
    assert [email["primary"] for email in result.doc["emails"]] == [False, True]
    result = patched(ANA, op("Add", "emails", [{"type": "other", "value": "o@x", "primary": True}]))
    assert [email.get("primary") for email in result.doc["emails"]] == [False, None, True]
    for operation in (
        op("replace", "emails", [{"value": "a", "primary": True}, {"value": "b", "primary": True}]),
        op(
            "replace",
            'emails[value co "home" or value co "h.ex" or type eq "nothing" or display eq null].primary',
            True,
        ),
    ):
        if "path" in operation and "[" in operation["path"]:
            doc = changed(ANA, emails=[{"value": "a@h.example"}, {"value": "b@h.example"}])
        else:
            doc = ANA
        with pytest.raises(InvalidValueError, match="primary"):
            patched(doc, operation)


def test_61_another_value_does_not_become_primary() -> None:
    result = patched(ANA, op("Add", 'emails[type eq "other"].value', "o@x.example"))
    assert result.doc["emails"] == [*ANA["emails"], {"type": "other", "value": "o@x.example"}]


def test_115_the_name_of_a_tombstone_is_not_taken() -> None:
    tombstone = "283405f5a1b2c3d4e5f60718293a4b5cANA@x.example"
    result = patched(ANA, op("Replace", "userName", tombstone), op("Replace", "active", "False"))
    assert result.doc == changed(ANA, active=False)
    assert result.ignored == ("userName",)
    assert patched(ANA, op("replace", None, {"userName": tombstone})).ignored == ("userName",)
    other = "283405f5a1b2c3d4e5f60718293a4b5cboris@x.example"
    assert patched(ANA, op("Replace", "userName", other)).doc["userName"] == other


# ── both dialects, the same outcome (entra-wire.md §5.1)


def test_the_two_dialects_give_the_same_document() -> None:
    legacy = patched(
        ANA,
        op("Replace", "displayName", "Ana Dvořáková"),
        op("Replace", "name.familyName", "Dvořáková"),
        op("Add", 'phoneNumbers[type eq "mobile"].value', "420555999"),
        op("Replace", 'emails[type eq "work"].value', "ana.dv@contoso.example"),
        op("Replace", f"{ENTERPRISE_URN}:department", "Legal"),
        op("Replace", "active", "True"),
    )
    compliant = patched(
        ANA,
        op("replace", 'emails[type eq "work"].value', "ana.dv@contoso.example"),
        op("add", 'phoneNumbers[type eq "mobile"].value', "420555999"),
        op(
            "replace",
            None,
            {
                "displayName": "Ana Dvořáková",
                "name.familyName": "Dvořáková",
                "active": True,
                f"{ENTERPRISE_URN}:department": "Legal",
            },
        ),
    )
    assert legacy.doc == compliant.doc
    assert legacy.doc["emails"][0] == {"type": "work", "value": "ana.dv@contoso.example", "primary": True}
