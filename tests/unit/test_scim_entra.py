"""Each tolerance towards Entra, by the number of its case in the reference of interoperability cases."""

from __future__ import annotations

from typing import Any

import pytest

from models.errors import InvalidValueError
from models.scim import entra
from models.scim.schema import ENTERPRISE_URN, USER_URN

ID = "9c1e5f0a-3f0f-4d8e-9f0e-0c1f0a6a7c11"


@pytest.mark.parametrize(("sent", "meant"), [("True", True), ("true", True), ("False", False), ("false", False)])
def test_case_51_a_boolean_as_a_string(sent: str, meant: bool) -> None:
    assert entra.boolean(sent) is meant


@pytest.mark.parametrize("sent", ["0", "1", "no", "yes", "", " True", "TRUE", "None", 0, 1, None, [], {}, ["True"]])
def test_case_64_nothing_else_is_a_boolean(sent: Any) -> None:
    assert entra.boolean(sent) is None


def test_case_52_a_name_in_any_letter_case() -> None:
    names = {"username": 1, "urn:x:user": 2}
    assert entra.any_case(names, "UserName") == 1
    assert entra.any_case(names, "urn:X:User") == 2
    assert entra.any_case(names, "user_name") is None


@pytest.mark.parametrize(
    ("value", "is_nothing"),
    [(None, True), ([], True), ({}, True), ("", False), (0, False), (False, False), ([None], False)],
)
def test_case_48_what_is_no_value(value: Any, is_nothing: bool) -> None:
    assert entra.unassigned(value) is is_nothing


def test_case_50_foreign_and_misspelt_schemas_are_not_looked_at() -> None:
    entra.check_schemas(["http://schemas.microsoft.com/2006/11/ResourceManagement/ADSCIM/2.0/Group", "x", ""])
    entra.check_schemas(["urn:ietf:params:scim:schemas:extension:enterprise:2.0User"])


@pytest.mark.parametrize("value", [USER_URN, {"0": USER_URN}, 1, True, [1], [None], [[USER_URN]]])
def test_schemas_must_be_a_list_of_strings(value: Any) -> None:
    with pytest.raises(InvalidValueError, match=r"^schemas must be a list of strings\.$"):
        entra.check_schemas(value)


def test_case_49_schemas_tell_what_the_document_holds() -> None:
    extensions = (ENTERPRISE_URN, "urn:x:y")
    assert entra.present_schemas(USER_URN, extensions, {"urn:x:y": {}, "title": "t"}) == [USER_URN, "urn:x:y"]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (ID, {"value": ID}),
        ({"value": ID}, {"value": ID}),
        ([{"value": ID, "$ref": f"https://h/Users/{ID}"}], {"value": ID, "$ref": f"https://h/Users/{ID}"}),
        ([ID], {"value": ID}),
        ("", None),
        ([], None),
        ([None], None),
        ({"value": ""}, None),
        ([{"Value": ""}], None),
        ({}, {}),
        (7, 7),
    ],
)
def test_cases_87_and_88_the_forms_of_a_manager(sent: Any, kept: Any) -> None:
    assert entra.manager(sent) == kept
    assert entra.manager(kept) == kept


def test_several_managers_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="takes one value, not 2"):
        entra.manager([{"value": ID}, {"value": ID}])


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ({"value": '{"id":"06b0","value":"Admin","displayName":"Admins"}'}, {"value": "Admin", "display": "Admins"}),
        (
            {"primary": "True", "Value": '{"value":"Admin","displayName":"Admins"}', "display": "Shown"},
            {"primary": "True", "Value": "Admin", "display": "Shown"},
        ),
        ({"value": '{"value":"Admin"}', "display": None}, {"value": "Admin", "display": None}),
        ({"value": "Admin", "displayName": "Admins"}, {"value": "Admin", "display": "Admins"}),
        ({"value": "Admin", "DisplayName": "Admins", "Display": None}, {"value": "Admin", "Display": "Admins"}),
        ({"value": "Admin", "displayName": "Admins", "display": "Shown"}, {"value": "Admin", "display": "Shown"}),
        ({"value": "Admin", "displayName": None}, {"value": "Admin"}),
        ({"value": "Admin", "primary": False}, {"value": "Admin", "primary": False}),
        ({"value": " {not JSON"}, {"value": " {not JSON"}),
        ("Admin", "Admin"),
    ],
)
def test_case_91_the_forms_of_a_role(sent: Any, kept: Any) -> None:
    assert entra.role(sent) == kept
    assert entra.role(kept) == kept


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{admin}",
        '{"value": "Admin"',
        '{"id": "06b0"}',
        '{"value": ""}',
        '{"value": 7}',
        '{"value": "a\\u0000"}',
        '{"value": "\\ud800"}',
        '{"value": "{\\"value\\":\\"Admin\\"}"}',
        '{"value": "a", "x": [[[[[]]]]]}',
        "{\ud800}",
    ],
)
def test_case_91_a_broken_role_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError, match=r"^roles\.value ") as caught:
        entra.role({"value": text})
    assert "Admin" not in caught.value.detail
