"""PATCH on documents, by the numbers of entra-cases.md (D, E) and the sections of entra-wire.md and RFC 7644."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest

from models.errors import (
    InvalidFilterError,
    InvalidPathError,
    InvalidSyntaxError,
    InvalidValueError,
    MutabilityError,
    NoTargetError,
    TooLargeError,
)
from models.scim.document import read_user
from models.scim.patch import Patched, apply_patch
from models.scim.schema import ENTERPRISE_URN, USER, USER_URN

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
    assert read_user(result.doc, SCHEMA).doc == result.doc, "not the form in which a document is stored"
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


# ── RFC 7644 §3.5.2


def test_values_stay_exactly_as_they_were_sent() -> None:
    result = patched(
        BARE, op("add", "displayName", " e\u0301  "), op("add", f"{BADGE_URN}:since", "2024-01-01T00:00:00.10Z")
    )
    assert result.doc["displayName"] == " e\u0301  "
    assert result.doc[BADGE_URN]["since"] == "2024-01-01T00:00:00.10Z"


def test_replacing_a_list_replaces_all_of_it() -> None:
    assert patched(ANA, op("replace", "emails", [{"value": "x@x"}])).doc["emails"] == [{"value": "x@x"}]
    assert patched(ANA, op("replace", "emails", {"value": "x@x"})).doc["emails"] == [{"value": "x@x"}]


def test_adding_to_a_list_appends_what_is_new() -> None:
    assert not patched(ANA, op("add", "emails", [{"value": "ANA@x.example", "type": "work"}])).changed
    result = patched(ANA, op("add", "emails", [{"value": "ana@x.example", "type": "other"}, {"value": "b@x"}]))
    assert result.doc["emails"] == [*ANA["emails"], {"value": "ana@x.example", "type": "other"}, {"value": "b@x"}]
    result = patched(BARE, op("add", "addresses", [{"locality": "Brno"}, {"locality": "brno"}, {"region": "X"}]))
    assert result.doc["addresses"] == [{"locality": "Brno"}, {"region": "X"}]


def test_a_change_of_order_is_no_change() -> None:
    result = apply_patch(ANA, {"Operations": [op("replace", "emails", ANA["emails"][::-1])]}, SCHEMA)
    assert not result.changed
    assert result.doc == ANA
    assert result.doc is not ANA


def test_every_selected_value_is_written() -> None:
    doc = changed(ANA, emails=[{"value": "a", "type": "work"}, {"value": "b", "type": "work"}, {"value": "c"}])
    result = patched(doc, op("replace", 'emails[type eq "work"].display', "D"))
    assert [email.get("display") for email in result.doc["emails"]] == ["D", "D", None]
    result = patched(doc, op("replace", 'emails.type eq "work"', {"display": "D"}))
    assert [email.get("display") for email in result.doc["emails"]] == ["D", "D", None]
    result = patched(doc, op("add", "emails.display", "D"))
    assert [email.get("display") for email in result.doc["emails"]] == ["D", "D", "D"]
    assert patched(doc, op("remove", "emails.type")).doc["emails"] == [{"value": "a"}, {"value": "b"}, {"value": "c"}]
    assert patched(doc, op("remove", 'emails[type eq "work"]')).doc["emails"] == [{"value": "c"}]
    assert "emails" not in patched(doc, op("remove", "emails[value pr]")).doc


@pytest.mark.parametrize(
    ("condition", "count"),
    [
        ('type eq "WORK"', 1),
        ('type ne "work"', 1),
        ('value co "@H." and not (primary eq true)', 1),
        ('value sw "ana@" or type pr', 2),
        ('value ew ".example" and primary eq "True"', 1),
        ("display eq null", 2),
        ("display pr", 0),
        ('value gt "ana@h.example"', 1),
        ('value ge "ana@h.example" and value le "ana@x.example" and value lt "b"', 2),
    ],
)
def test_filters_in_paths_have_the_whole_grammar(condition: str, count: int) -> None:
    result = patched(ANA, op("remove", f"emails[{condition}]"))
    assert len(ANA["emails"]) - len(result.doc.get("emails", [])) == count


def test_removing_takes_away_what_is_empty_then() -> None:
    doc = patched(ANA, op("remove", "name.givenName"), op("remove", "name.familyName"), op("remove", BADGE_URN)).doc
    assert "name" not in doc
    assert BADGE_URN not in doc
    assert BADGE_URN not in doc["schemas"]
    assert patched(ANA, op("remove", 'emails[type eq "home"].value')).doc["emails"] == ANA["emails"][:1]
    assert patched(changed(ANA, active=False), op("remove", "active")).doc["active"] is True  # its default


def test_a_password_is_taken_and_never_kept() -> None:
    result = patched(
        ANA, op("replace", "password", "secret"), op("add", None, {"password": "secret"}), op("remove", "password")
    )
    assert not result.changed
    assert "secret" not in repr(result)


def test_what_the_server_owns_is_ignored_inside_an_object() -> None:
    assert not patched(ANA, op("replace", None, {"id": "x", "meta": {}, "schemas": [], "Id": "y"})).changed


def test_schemas_follow_from_the_document() -> None:
    assert not patched(ANA, op("add", "schemas", [USER_URN, "urn:x:y"])).changed
    with pytest.raises(MutabilityError, match="schemas is required"):
        patched(ANA, op("remove", "schemas"))


def test_an_immutable_value_is_set_once() -> None:
    serial = f"{BADGE_URN}:serial"
    assert patched(BARE, op("add", serial, "A1")).doc[BADGE_URN] == {"serial": "A1"}
    assert not patched(ANA, op("replace", serial, "A1")).changed
    for operation in (op("replace", serial, "B2"), op("remove", serial)):
        with pytest.raises(MutabilityError, match="serial has a value"):
            patched(ANA, operation)


@pytest.mark.parametrize(
    ("operation", "error", "says"),
    [
        (op("remove"), NoTargetError, "path"),
        (op("remove", USER_URN), NoTargetError, "whole"),
        (op("replace", "title"), InvalidValueError, "value is needed"),
        (op("add", "title"), InvalidValueError, "value is needed"),
        (op("replace", None, "x"), InvalidValueError, "must be an object, not a string"),
        (op("replace", None, None), InvalidValueError, "must be an object"),
        (op("replace", ENTERPRISE_URN, 5), InvalidValueError, "must be an object"),
        (op("replace", "title", 5), InvalidValueError, "title must be a string"),
        (op("replace", "title", ["x"]), InvalidValueError, "title must be a string"),
        (op("replace", "name", "x"), InvalidValueError, "name must be an object"),
        (op("replace", "name.givenName", {"x": 1}), InvalidValueError, "name.givenName must be a string"),
        (op("replace", "emails", "x@x"), InvalidValueError, "emails must be a list"),
        (op("replace", "emails", [{"value": 5}]), InvalidValueError, "emails.value must be a string"),
        (op("replace", 'emails[type eq "work"].value', 5), InvalidValueError, "emails.value must be a string"),
        (op("replace", 'emails[type eq "work"]', [1, 2]), InvalidValueError, "must be an object"),
        (
            op("replace", 'emails[type eq "work"].primary', "x"),
            InvalidValueError,
            "emails.primary must be true or false",
        ),
        (op("replace", f"{BADGE_URN}:level", "5"), InvalidValueError, "level must be an integer"),
        (op("replace", "id", "x"), MutabilityError, "id is read-only"),
        (op("replace", "meta.created", "x"), MutabilityError, "read-only"),
        (op("add", "groups", [{"value": "x"}]), MutabilityError, "groups is read-only"),
        (op("add", None, {"groups": [{"value": "x"}]}), MutabilityError, "groups is read-only"),
        (op("remove", 'groups[value eq "x"]'), MutabilityError, "groups is read-only"),
        (op("add", f"{ENTERPRISE_URN}:manager.displayName", "x"), MutabilityError, "read-only"),
        (op("replace", "emails[", "x"), InvalidPathError, "column"),
        (op("replace", "emails[type eq]", "x"), InvalidFilterError, "column"),
        (op("replace", 'emails[type eq "work"]value', "x"), InvalidPathError, "cannot be read"),
        (op("replace", "emails[0].value", "x"), InvalidFilterError, "cannot be read"),
        (op("replace", 'emails[nonsense eq "x"].value', "x"), InvalidFilterError, "no sub-attribute nonsense"),
        (op("replace", "emails[primary gt true].value", "x"), InvalidFilterError, "cannot be used"),
        (op("replace", "emails[type.x eq 1].value", "x"), InvalidFilterError, "plain names"),
        (op("replace", 'name[givenName eq "x"].familyName', "x"), InvalidPathError, "not a list"),
        (op("replace", "a b", "x"), InvalidPathError, "column"),
        (op("replace", "x" * 3000, "x"), InvalidPathError, "2048"),
        (op("dance", "title", "x"), InvalidSyntaxError, "Operation 1: op must be"),
        ({"path": "title", "value": "x"}, InvalidSyntaxError, "op must be"),
        ({"op": "add", "path": 5, "value": "x"}, InvalidPathError, "path must be a string"),
        (op("add", "emails", [{"value": str(n)} for n in range(10_001)]), InvalidValueError, "10000"),
        (op("remove", "emails", [{"display": str(n)} for n in range(101)]), InvalidValueError, "by their value"),
    ],
)
def test_what_cannot_be_done_says_why(operation: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        patched(ANA, operation)


@pytest.mark.parametrize(
    "body", [None, [], "x", {}, {"Operations": []}, {"Operations": {}}, {"Operations": [1]}, {"Operations": None}]
)
def test_a_body_that_is_no_patch_is_refused(body: Any) -> None:
    with pytest.raises(InvalidSyntaxError):
        apply_patch(ANA, body, SCHEMA)


def test_limits() -> None:
    many = [op("replace", "title", str(number)) for number in range(1000)]
    assert patched(ANA, *many).doc["title"] == "999"
    with pytest.raises(TooLargeError, match="1001 operations; 1000"):
        patched(ANA, *many, many[0])
    with pytest.raises(TooLargeError, match="1 are allowed"):
        patched(ANA, *many[:2], max_operations=1)
    long = changed(ANA, emails=[{"value": str(number)} for number in range(5000)])
    with pytest.raises(TooLargeError, match="lists of too many values"):
        patched(long, *[op("add", 'emails[type eq "x"].value', "y") for _ in range(100)])
