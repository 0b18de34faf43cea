"""Which attributes an answer carries (RFC 7644 §3.9)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import InvalidValueError
from models.scim.project import Projection, project
from models.scim.schema import ENTERPRISE_URN, GROUP, USER, USER_URN
from tests.support.samples import sample
from tests.support.scim_values import resources

BADGE = "urn:ietf:params:scim:schemas:extension:Badge:2.0:User"
PATHS = sorted(USER._paths)


def user() -> dict[str, Any]:
    resource: dict[str, Any] = sample("rfc7643-8.3-user-enterprise")
    del resource["password"]
    return resource


def chosen(attributes: str | None = None, excluded: str | None = None) -> dict[str, Any]:
    return project(user(), attributes=attributes, excluded=excluded, schema=USER)


@pytest.mark.parametrize(("attributes", "excluded"), [(None, None), ("", ""), (" , ", None), (None, ",")])
def test_without_a_choice_the_resource_itself_is_the_answer(attributes: str | None, excluded: str | None) -> None:
    resource = user()
    projection = Projection.parse(attributes, excluded, USER)
    assert projection.apply(resource) is resource


def test_a_password_is_never_returned() -> None:
    resource = {"id": "1", "userName": "a", "password": "secret"}
    for attributes, excluded in ((None, None), ("password", None), ("userName,password", None), (None, "title")):
        answer = project(resource, attributes=attributes, excluded=excluded, schema=USER)
        assert "password" not in answer
        assert answer["id"] == "1"


@pytest.mark.parametrize(
    ("attributes", "names"),
    [
        ("userName", ["userName"]),
        ("USERNAME , displayname", ["userName", "displayName"]),
        (f"{USER_URN}:title", ["title"]),
        ("meta", ["meta"]),
        ("id", []),
        ("schemas", []),
        ("unknown", []),
        ("unknown,title", ["title"]),
        (USER_URN, []),
        (ENTERPRISE_URN, [ENTERPRISE_URN]),
        ("emails,emails.value", ["emails"]),
        ("emails.value,emails", ["emails"]),
    ],
)
def test_named_attributes_and_those_always_returned(attributes: str, names: list[str]) -> None:
    whole = user()
    assert chosen(attributes=attributes) == {name: whole[name] for name in ("schemas", "id", *names)}


def test_sub_attributes_of_every_shape() -> None:
    answer = chosen(
        attributes=f"name.familyName,emails.value,emails.type,meta.version,{ENTERPRISE_URN}:manager.value,"
        f"{ENTERPRISE_URN.upper()}:DEPARTMENT"
    )
    assert answer == {
        "schemas": [USER_URN, ENTERPRISE_URN],
        "id": "2819c223-7f76-453a-919d-413861904646",
        "name": {"familyName": "Jensen"},
        "emails": [
            {"value": "bjensen@example.com", "type": "work"},
            {"value": "babs@jensen.org", "type": "home"},
        ],
        "meta": {"version": 'W/"3694e05e9dff591"'},
        ENTERPRISE_URN: {
            "department": "Tour Operations",
            "manager": {"value": "26118915-6090-4610-87e4-49d8ca9f808d"},
        },
    }


def test_what_has_no_named_part_is_left_out() -> None:
    assert "phoneNumbers" not in chosen(attributes="phoneNumbers.display")
    only_home = chosen(attributes="emails.primary")
    assert only_home["emails"] == [{"primary": True}]


@pytest.mark.parametrize(
    ("excluded", "gone"),
    [
        ("emails", ["emails"]),
        ("EMAILS, title", ["emails", "title"]),
        ("meta", ["meta"]),
        (ENTERPRISE_URN, [ENTERPRISE_URN]),
        (f"{USER_URN}:title", ["title"]),
        ("id,schemas", []),
        ("unknown", []),
        ("ims.value,ims.type", ["ims"]),
        ("name,name.givenName", ["name"]),
        ("name.givenName,name", ["name"]),
    ],
)
def test_excluded_attributes_are_left_out_unless_always_returned(excluded: str, gone: list[str]) -> None:
    assert chosen(excluded=excluded) == {name: value for name, value in user().items() if name not in gone}


def test_excluded_sub_attributes() -> None:
    answer = chosen(excluded=f"emails.type,emails.primary,name.formatted,{ENTERPRISE_URN}:manager.$ref")
    assert answer["emails"] == [{"value": "bjensen@example.com"}, {"value": "babs@jensen.org"}]
    assert "formatted" not in answer["name"]
    assert "givenName" in answer["name"]
    assert answer[ENTERPRISE_URN]["manager"].keys() == {"value", "displayName"}


def test_case_31_members_are_left_out_of_a_group() -> None:
    group = sample("rfc7643-8.4-group")
    answer = project(group, attributes=None, excluded="members", schema=GROUP)
    assert answer == {name: value for name, value in sample("rfc7643-8.4-group").items() if name != "members"}


def test_both_parameters_together_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="cannot be used together"):
        Projection.parse("userName", "title", USER)


def test_what_a_tenants_schema_returns_always_is_always_returned() -> None:
    subs = [{"name": "value", "returned": "always"}, {"name": "floor"}, {"name": "wing"}]
    schema = USER.with_extensions(
        [
            {
                "id": BADGE,
                "attributes": [
                    {"name": "number", "returned": "always"},
                    {"name": "colour"},
                    {"name": "door", "type": "complex", "subAttributes": subs},
                ],
            }
        ]
    )
    door = {"value": "7", "floor": "1", "wing": "w"}
    resource = {"id": "1", "userName": "a", BADGE: {"number": "7", "colour": "red", "door": door}}

    def choose(attributes: str | None, excluded: str | None = None) -> Any:
        return project(resource, attributes=attributes, excluded=excluded, schema=schema)

    assert choose("title") == {"id": "1", BADGE: {"number": "7"}}
    assert choose(f"{BADGE}:door.floor")[BADGE] == {"number": "7", "door": {"value": "7", "floor": "1"}}
    assert choose(None, BADGE) == {"id": "1", "userName": "a", BADGE: {"number": "7"}}
    assert choose(None, f"{BADGE}:number") == resource
    assert choose(None, f"{BADGE}:door")[BADGE]["door"] == {"value": "7"}
    assert choose(None, f"{BADGE}:door.value") == resource


@given(
    resources(USER, "userName"),
    st.lists(st.sampled_from([*PATHS, "unknown", "", " "]), max_size=5).map(",".join),
    st.booleans(),
)
def test_a_choice_never_drops_the_id_nor_adds_anything(sent: dict[str, Any], names: str, exclude: bool) -> None:
    resource = {"schemas": [USER_URN], "id": "1", **sent}
    answer = project(
        resource,
        attributes=None if exclude else names,
        excluded=names if exclude else None,
        schema=USER,
    )
    assert (answer["id"], answer["schemas"]) == ("1", [USER_URN])
    assert is_part(answer, resource)
    again = project(answer, attributes=None if exclude else names, excluded=names if exclude else None, schema=USER)
    assert again == answer


def is_part(part: Any, whole: Any) -> bool:
    if isinstance(part, dict):
        return all(key in whole and is_part(value, whole[key]) for key, value in part.items())
    if isinstance(part, list) and part and isinstance(part[0], dict):
        return all(any(is_part(item, candidate) for candidate in whole) for item in part)
    return bool(part == whole)


@pytest.mark.parametrize(
    ("attributes", "excluded", "expected"),
    [
        (None, None, True),
        ("", "displayName", True),
        (None, "members", False),
        (None, "displayName, MEMBERS", False),
        (None, "urn:ietf:params:scim:schemas:core:2.0:Group:members", False),
        (None, "members.type", True),
        ("id", None, False),
        ("displayName,members", None, True),
        ("members.value", None, True),
    ],
)
def test_whether_an_attribute_is_in_the_answer_is_known_beforehand(
    attributes: str | None, excluded: str | None, expected: bool
) -> None:
    projection = Projection.parse(attributes, excluded, GROUP)
    assert projection.includes("members") is expected
    group = {"id": "1", "displayName": "a", "members": [{"value": "2", "type": "User"}]}
    assert ("members" in projection.apply(group)) is expected
