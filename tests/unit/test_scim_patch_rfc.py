"""PATCH on documents as RFC 7644 §3.5.2 has it, its errors, and its limits."""

from __future__ import annotations

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
from models.scim.patch import apply_patch
from models.scim.schema import ENTERPRISE_URN, USER_URN
from tests.support.patching import ANA, BADGE_URN, BARE, SCHEMA, changed, op, patched


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
    assert "active" not in patched(changed(ANA, active=False), op("remove", "active")).doc


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
