"""The attribute registry: which paths name what, and which schemas a tenant may add."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.errors import InvalidValueError
from models.scim.schema import ENTERPRISE_URN, GROUP, GROUP_URN, USER, USER_URN, compare_key

BADGE = "urn:ietf:params:scim:schemas:extension:Badge:2.0:User"


def badge(**changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": BADGE,
        "name": "Badge",
        "attributes": [
            {"name": "colour", "type": "string", "caseExact": True, "canonicalValues": ["red", "green"]},
            {
                "name": "doors",
                "type": "complex",
                "multiValued": True,
                "subAttributes": [{"name": "value"}, {"name": "opens", "type": "dateTime"}],
            },
        ],
    }
    return document | changes


@pytest.mark.parametrize(
    ("path", "canonical", "keys"),
    [
        ("userName", "userName", ("userName",)),
        ("USERNAME", "userName", ("userName",)),
        ("name.givenname", "name.givenName", ("name", "givenName")),
        (f"{USER_URN}:title", "title", ("title",)),
        (f"{USER_URN.upper()}:Emails.VALUE", "emails.value", ("emails", "value")),
        (ENTERPRISE_URN, ENTERPRISE_URN, (ENTERPRISE_URN,)),
        (f"{ENTERPRISE_URN}:department", f"{ENTERPRISE_URN}:department", (ENTERPRISE_URN, "department")),
        (
            f"{ENTERPRISE_URN.lower()}:manager.VALUE",
            f"{ENTERPRISE_URN}:manager.value",
            (ENTERPRISE_URN, "manager", "value"),
        ),
        ("id", "id", ("id",)),
        ("externalid", "externalId", ("externalId",)),
        ("meta.lastModified", "meta.lastModified", ("meta", "lastModified")),
        ("schemas", "schemas", ("schemas",)),
        ("groups.$ref", "groups.$ref", ("groups", "$ref")),
    ],
)
def test_a_path_is_found_in_any_letter_case(path: str, canonical: str, keys: tuple[str, ...]) -> None:
    found = USER.find(path)
    assert found is not None
    assert found.canonical == canonical
    assert found.keys == keys
    again = USER.find(found.canonical)
    assert again == found


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "unknown",
        "name.unknown",
        "userName.value",
        "department",  # an extension's attribute without its URN is not the core's
        "members",
        USER_URN,
        f"{USER_URN}:",
        f"{USER_URN}.title",
        f"{ENTERPRISE_URN}.manager",
        f"{ENTERPRISE_URN}:userName",
        "urn:ietf:params:scim:schemas:extension:enterprise:2.0User:department",
        "urn:ietf:params:scim:schemas:extension:enterprise:2",
        'emails[type eq "work"].value',
    ],
)
def test_a_path_that_names_nothing_is_not_found(path: str) -> None:
    assert USER.find(path) is None


def test_what_a_path_resolves_to() -> None:
    found = USER.find(f"{ENTERPRISE_URN}:manager.value")
    assert found is not None
    assert found.extension is USER.extensions[ENTERPRISE_URN.lower()]
    assert found.attribute is not None
    assert found.attribute.type == "complex"
    assert found.sub_attribute is found.attribute.sub_attributes["value"]
    extension = USER.find(ENTERPRISE_URN)
    assert extension is not None
    assert (extension.attribute, extension.sub_attribute) == (None, None)


def test_the_characteristics_that_the_rest_relies_on() -> None:
    user_name = USER.attributes["username"]
    assert (user_name.required, user_name.case_exact, user_name.uniqueness) == (True, False, "server")
    assert USER.attributes["externalid"].case_exact
    assert USER.attributes["id"].returned == "always"
    assert USER.attributes["groups"].mutability == "readOnly"
    assert USER.attributes["password"].returned == "never"
    assert USER.attributes["meta"].sub_attributes["created"].type == "dateTime"
    assert not USER.extensions[ENTERPRISE_URN.lower()].attributes["manager"].sub_attributes["$ref"].required
    assert GROUP.attributes["displayname"].required
    assert (GROUP.urn, GROUP.endpoint) == (GROUP_URN, "/Groups")
    assert (USER.urn, USER.name, USER.endpoint) == (USER_URN, "User", "/Users")


@pytest.mark.parametrize("name", ["emails", "phonenumbers", "addresses", "ims", "photos"])
def test_types_have_canonical_values_for_entras_schema_discovery(name: str) -> None:
    """Case 129: names such as ``emails[type eq "work"].value`` are made from them."""
    assert USER.attributes[name].sub_attributes["type"].canonical_values


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ana@x", "ANA@X"),
        ("Žofie", "žOFIE"),
        ("Ž", "Z\u030c"),  # composed and decomposed
        ("Straße", "STRASSE"),
        ("\u03b1\u0345\u0301", "\u1fb4"),  # folding before composing would part them
        ("ΌΣΟΣ", "όσος"),
        ("\u0390", "\u03b9\u0308\u0301"),  # folding decomposes it
    ],
)
def test_keys_are_equal_for_what_is_compared_as_equal(one: str, other: str) -> None:
    """Cases 20, 42 and 56."""
    assert compare_key(one) == compare_key(other)


def test_keys_differ_where_names_do() -> None:
    assert len({compare_key(name) for name in ("ana", "anna", "aná", "ana ", "an\u0131")}) == 5


@given(st.text())
@example("\u0345\u0301")
@example("\u1fb7\u0315")
def test_a_key_is_its_own_key(text: str) -> None:
    assert compare_key(compare_key(text)) == compare_key(text)


def test_a_tenants_schema_is_added() -> None:
    schema = USER.with_extensions([badge()])
    found = schema.find(f"{BADGE}:DOORS.opens")
    assert found is not None
    assert found.keys == (BADGE, "doors", "opens")
    assert found.sub_attribute is not None
    assert found.sub_attribute.type == "dateTime"
    colour = schema.extensions[BADGE.lower()].attributes["colour"]
    assert colour.case_exact
    assert colour.canonical_values == ("red", "green")
    assert schema.find("userName") == USER.find("userName")
    assert USER.find(f"{BADGE}:colour") is None


def test_names_with_digits_and_signs_are_taken() -> None:
    document = badge(attributes=[{"name": "x509-Serial_no$1"}])
    assert USER.with_extensions([document]).find(f"{BADGE}:X509-serial_NO$1") is not None


@pytest.mark.parametrize(
    ("document", "detail"),
    [
        ({}, "URN"),
        (badge(id="Badge"), "URN"),
        (badge(id="urn:ex ample:x"), "URN"),
        (badge(id="urn:example:x]"), "URN"),
        (badge(id=7), "URN"),
        (badge(id=USER_URN), "belongs to SCIM"),
        (badge(id="urn:ietf:params:scim:api:messages:2.0:PatchOp"), "belongs to SCIM"),
        (badge(id="urn:" + ENTERPRISE_URN[4:].upper()), "already defined"),
        (badge(attributes=None), "list of attributes"),
        (badge(attributes=[]), "list of attributes"),
        (badge(attributes={}), "list of attributes"),
        (badge(attributes=["colour"]), "must be an object"),
        (badge(attributes=[{"type": "string"}]), "name"),
        (badge(attributes=[{"name": "a.b"}]), "name"),
        (badge(attributes=[{"name": "1a"}]), "name"),
        (badge(attributes=[{"name": "a"}, {"name": "A"}]), "twice"),
        (badge(attributes=[{"name": "a", "type": "text"}]), f"{BADGE}:a: type must be"),
        (badge(attributes=[{"name": "a", "type": ["string"]}]), f"{BADGE}:a: type must be"),
        (badge(attributes=[{"name": "a", "multiValued": "true"}]), "multiValued must be true or false"),
        (badge(attributes=[{"name": "a", "mutability": "sometimes"}]), "mutability must be one of"),
        (badge(attributes=[{"name": "a", "mutability": "readOnly"}]), "mutability of an own attribute"),
        (badge(attributes=[{"name": "a", "returned": "never"}]), "returned of an own attribute"),
        (badge(attributes=[{"name": "a", "uniqueness": "server"}]), "uniqueness of an own attribute"),
        (badge(attributes=[{"name": "a", "canonicalValues": "x"}]), "list of strings"),
        (badge(attributes=[{"name": "a", "canonicalValues": [1]}]), "list of strings"),
        (badge(attributes=[{"name": "a", "description": 1}]), "description must be a string"),
        (badge(attributes=[{"name": "a", "type": "complex"}]), "list of attributes"),
        (badge(name=1), "name must be a string"),
        (
            badge(
                attributes=[
                    {
                        "name": "a",
                        "type": "complex",
                        "subAttributes": [{"name": "b", "type": "complex", "subAttributes": [{"name": "c"}]}],
                    }
                ]
            ),
            "may not hold another one",
        ),
        (
            badge(
                attributes=[{"name": "a", "type": "complex", "subAttributes": [{"name": "b", "returned": "request"}]}]
            ),
            "returned of an own attribute",
        ),
    ],
)
def test_a_schema_that_cannot_be_kept_is_refused(document: dict[str, Any], detail: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        USER.with_extensions([document])
    assert detail in caught.value.detail


def test_two_schemas_may_not_give_a_path_two_meanings() -> None:
    with pytest.raises(InvalidValueError, match="already defined"):
        USER.with_extensions([badge(), badge(id=BADGE.lower())])
    inner = badge(id=f"{BADGE}:colour", attributes=[{"name": "x"}])
    with pytest.raises(InvalidValueError, match="two meanings"):
        USER.with_extensions([badge(), inner])
