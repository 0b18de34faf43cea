"""Users and groups as clients send them, and the documents that are kept of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ClientError, InvalidSyntaxError, InvalidValueError
from models.scim import json
from models.scim.document import Member, UserDocument, read_attribute, read_group, read_user
from models.scim.reader import MAX_ITEMS, MAX_KEY, MAX_STRING
from models.scim.schema import ENTERPRISE_URN, GROUP, GROUP_URN, USER, USER_URN
from tests.support.samples import sample
from tests.support.scim_values import ANYTHING, TEXT, resources

ANA = "ana.nov@contoso.example"
ID = "9c1e5f0a-3f0f-4d8e-9f0e-0c1f0a6a7c11"
NAMES = [*sorted(USER.attributes), "UserName", "Emails", "Roles", "Manager", "department", ENTERPRISE_URN]


def user(**members: Any) -> UserDocument:
    return read_user({"userName": ANA, **members})


def refusal(**members: Any) -> str:
    with pytest.raises(InvalidValueError) as caught:
        user(**members)
    return caught.value.detail


def test_the_create_of_the_wire_reference() -> None:
    sent = sample("entra-wire-4-create")
    read = read_user(sent)
    expected = sample("entra-wire-4-create")
    del expected["meta"], expected["roles"]
    assert read == UserDocument(
        doc=expected,
        user_name=ANA,
        user_name_key=ANA,
        external_id="ana.nov",
        work_email_keys=[ANA],
        active=True,
        primary_email=ANA,
        ignored=(),
    )
    assert sent == sample("entra-wire-4-create")  # what was sent is not changed


def test_the_oddities_of_the_wire_reference() -> None:
    read = read_user(sample("entra-wire-4-oddities"))
    assert read.doc == {
        "schemas": [USER_URN, ENTERPRISE_URN],
        "externalId": "ana.nov",
        "userName": ANA,
        "active": True,
        "displayName": "Ana Nováková",
        "emails": [{"primary": True, "type": "work", "value": ANA}],
        "name": {"familyName": "Nováková", "givenName": "Ana"},
        ENTERPRISE_URN: {"department": "Procurement", "manager": {"value": ID}},
    }
    assert read.ignored == ("urn:ietf:params:scim:schemas:extension:Badge:2.0:User",)


@pytest.mark.parametrize("name", ["8.1-user-minimal", "8.2-user-full", "8.3-user-enterprise"])
def test_the_users_of_rfc_7643(name: str) -> None:
    sent = sample(f"rfc7643-{name}")
    read = read_user(sent)
    expected = {"active": True} | sample(f"rfc7643-{name}")
    for left_out in ("id", "meta", "password", "groups"):
        expected.pop(left_out, None)
    if ENTERPRISE_URN in expected:
        del expected[ENTERPRISE_URN]["manager"]["displayName"]  # readOnly
    assert read.doc == expected
    assert set(read.ignored) <= {"groups", f"{ENTERPRISE_URN}:manager.displayName"}


def test_the_group_of_rfc_7643() -> None:
    read = read_group(sample("rfc7643-8.4-group"))
    assert read.doc == {"schemas": [GROUP_URN], "displayName": "Tour Guides"}
    assert [member.type for member in read.members] == ["User", "User"]
    assert read.members[0].value == "2819c223-7f76-453a-919d-413861904646"


@given(resources(USER, "userName"))
def test_a_user_in_scims_own_form_comes_back_exactly(sent: dict[str, Any]) -> None:
    schemas = [USER_URN, *([ENTERPRISE_URN] if ENTERPRISE_URN in sent else [])]
    read = read_user(sent)
    assert json.dumps(read.doc) == json.dumps(
        {"schemas": schemas, **sent, **({} if "active" in sent else {"active": True})}
    )
    assert read.ignored == ()


@given(resources(USER, "userName"), st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=3))
def test_reading_a_users_own_document_gives_the_same(sent: dict[str, Any], odd: dict[str, Any]) -> None:
    try:
        read = read_user(sent | odd)
    except ClientError:
        read = read_user(sent)
    assert read_user(read.doc) == replace(read, ignored=())
    assert read_user(json.parse(json.dumps(read.doc), max_depth=10)) == replace(read, ignored=())


@given(resources(GROUP, "displayName"))
def test_reading_a_groups_own_document_gives_the_same_without_members(sent: dict[str, Any]) -> None:
    for member in sent.get("members", ()):
        member.setdefault("value", ID)
    read = read_group({**sent, "members": [*sent.get("members", ()), {"value": ID}]})
    assert len(read.members) == len(sent.get("members", ())) + 1
    assert read_group(read.doc) == replace(read, members=[], ignored=())


@given(ANYTHING | st.dictionaries(st.sampled_from(NAMES) | TEXT, ANYTHING, max_size=6))
def test_any_json_is_read_or_refused(raw: Any) -> None:
    for read in (read_user, read_group):
        for value in (raw, {"userName": "a", "displayName": "a", **raw} if isinstance(raw, dict) else raw):
            try:
                json.dumps(read(value).doc)
            except ClientError as error:
                assert error.detail  # noqa: PT017 -- most inputs are refused, some are not
            except TypeError as error:
                # Numbers of this size never come out of json.parse.
                assert "64-bit" in str(error)  # noqa: PT017 -- as above


@pytest.mark.parametrize("raw", [None, [], [{}], "x", 1, True])
def test_a_resource_must_be_an_object(raw: Any) -> None:
    with pytest.raises(InvalidSyntaxError, match="must be a JSON object"):
        read_user(raw)
    with pytest.raises(InvalidSyntaxError, match="must be a JSON object"):
        read_group(raw)


@pytest.mark.parametrize(
    ("members", "detail"),
    [
        ({"userName": None}, "userName is required."),
        ({"userName": []}, "userName is required."),
        ({"userName": ""}, "userName must not be blank."),
        ({"userName": " \u2003"}, "userName must not be blank."),
        ({"userName": 7}, "userName must be a string, not a number."),
        ({"userName": ["a"]}, "userName must be a string, not a list."),
        ({"userName": "a" * (MAX_KEY + 1)}, "userName is longer than 512 characters."),
        ({"userName": "a\r\nBcc: b"}, "userName has a control character such as a line break; remove it."),
        ({"userName": "a\x7f"}, "userName has a control character such as a line break; remove it."),
        ({"userName": "a\u2028b"}, "userName has a control character such as a line break; remove it."),
        ({"UserName": "b"}, "userName is given twice with different values."),
        ({"externalId": 7}, "externalId must be a string, not a number."),
        ({"externalId": "a" * (MAX_KEY + 1)}, "externalId is longer than 512 characters."),
        ({"title": True}, "title must be a string, not a boolean."),
        ({"title": "a" * (MAX_STRING + 1)}, "title is longer than 65536 characters."),
        ({"profileUrl": {"a": 1}}, "profileUrl must be a string, not an object."),
        ({"name": "Ana"}, "name must be an object, not a string."),
        ({"name": {"givenName": 7}}, "name.givenName must be a string, not a number."),
        ({"name": {"GivenName": "a", "givenName": "b"}}, "name.givenName is given twice with different values."),
        ({"active": 1}, 'active must be true or false, or the string "True" or "False", not a number.'),
        ({"active": "no"}, 'active must be true or false, or the string "True" or "False", not a string.'),
        ({"active": "0"}, 'active must be true or false, or the string "True" or "False", not a string.'),
        ({"active": ""}, 'active must be true or false, or the string "True" or "False", not a string.'),
        ({"emails": "a@x"}, "emails must be a list, not a string."),
        ({"emails": ["a@x"]}, "emails must be an object, not a string (value 1)."),
        ({"emails": [{"value": "a"}, {"value": 7}]}, "emails.value must be a string, not a number (value 2)."),
        ({"emails": [{"value": "a" * (MAX_KEY + 1)}]}, "emails.value is longer than 512 characters (value 1)."),
        (
            {"emails": [{"value": "a@x\nBcc: b@x"}]},
            "emails.value has a control character such as a line break; remove it (value 1).",
        ),
        (
            {"emails": [{"primary": "yes"}]},
            'emails.primary must be true or false, or the string "True" or "False", not a string (value 1).',
        ),
        ({"photos": [{"value": "x"}] * (MAX_ITEMS + 1)}, "photos has more than 10000 values."),
        ({"x509Certificates": [{"value": "no!"}]}, "x509Certificates.value must be a base64 string"),
        ({"schemas": USER_URN}, "schemas must be a list of strings."),
        ({ENTERPRISE_URN: "x"}, f"{ENTERPRISE_URN} must be an object, not a string."),
        ({ENTERPRISE_URN: {"department": 7}}, f"{ENTERPRISE_URN}:department must be a string, not a number."),
        ({ENTERPRISE_URN: {"manager": 7}}, f"{ENTERPRISE_URN}:manager must be an object, not a number."),
        (
            {ENTERPRISE_URN: {"manager": {"value": 7}}},
            f"{ENTERPRISE_URN}:manager.value must be a string, not a number.",
        ),
        ({"manager": [ID, ID]}, f"{ENTERPRISE_URN}:manager takes one value, not 2."),
        ({"roles": [{"value": "a"}, {"value": "{"}]}, "roles.value begins with { but is not a JSON object (value 2)."),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(members: dict[str, Any], detail: str) -> None:
    assert refusal(**members).startswith(detail)


def test_a_user_without_user_name_is_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"^userName is required\.$"):
        read_user({})


def test_case_60_two_primary_values_are_refused() -> None:
    emails = [{"value": "a@x", "primary": True}, {"value": "b@x", "primary": "True"}]
    assert refusal(emails=emails) == "emails has 2 values with primary true; at most one may be."


def test_limits_are_inclusive() -> None:
    read = user(userName="é" * MAX_KEY, title="a" * MAX_STRING, photos=[{"value": "x"}] * MAX_ITEMS)
    assert len(read.doc["photos"]) == MAX_ITEMS


def test_case_41_the_key_ignores_letter_case_and_the_value_keeps_it() -> None:
    read = user(userName="ANA.Nov@Contoso.example")
    assert (read.user_name, read.user_name_key) == ("ANA.Nov@Contoso.example", ANA)
    assert read.doc["userName"] == "ANA.Nov@Contoso.example"


def test_case_48_what_is_null_or_empty_is_unassigned() -> None:
    read = user(
        title=None,
        emails=[None, {}, {"value": None}],
        addresses=[],
        phoneNumbers=[{"type": "work", "value": None}],
        name={"givenName": None},
        active=None,
        externalId="",
        schemas=None,
        unknown=None,
        **{ENTERPRISE_URN: {"department": None, "manager": ""}},
    )
    assert read.doc == {
        "schemas": [USER_URN],
        "userName": ANA,
        "phoneNumbers": [{"type": "work"}],
        "active": True,
    }
    assert (read.external_id, read.ignored) == (None, ())


def test_case_49_an_extension_is_listed_in_schemas_when_it_has_values() -> None:
    assert user(**{ENTERPRISE_URN: {"division": "d"}}).doc["schemas"] == [USER_URN, ENTERPRISE_URN]
    assert user(**{ENTERPRISE_URN: {}}).doc["schemas"] == [USER_URN]
    assert user(schemas=[USER_URN, ENTERPRISE_URN]).doc["schemas"] == [USER_URN]


@pytest.mark.parametrize(("sent", "active"), [("True", True), ("False", False), (False, False), (True, True)])
def test_case_51_active_is_a_boolean_in_every_form(sent: Any, active: bool) -> None:
    read = user(active=sent)
    assert (read.active, read.doc["active"]) == (active, active)


def test_case_52_names_in_any_letter_case_become_the_schemas_own() -> None:
    read = read_user(
        {
            "UserName": ANA,
            "ACTIVE": "False",
            "Emails": [{"Primary": "True", "Type": "work", "Value": ANA}],
            ENTERPRISE_URN.lower(): {"Department": "Legal", "Manager": {"Value": ID}},
        }
    )
    assert read.doc == {
        "schemas": [USER_URN, ENTERPRISE_URN],
        "userName": ANA,
        "active": False,
        "emails": [{"primary": True, "type": "work", "value": ANA}],
        ENTERPRISE_URN: {"department": "Legal", "manager": {"value": ID}},
    }
    assert read.work_email_keys == [ANA]


def test_case_53_what_the_server_owns_is_left_out_without_a_word() -> None:
    read = user(id="mine", meta={"location": 7}, Id="x", password="secret")
    assert read.doc == {"schemas": [USER_URN], "userName": ANA, "active": True}
    assert read.ignored == ()


def test_case_54_what_no_schema_has_is_named() -> None:
    read = user(
        shoeSize=43,
        groups=[{"value": "g"}],
        emails=[{"value": ANA, "verified": True}, {"value": "b@x", "verified": True}],
        **{"name.givenName": "Ana", ENTERPRISE_URN: {"shoeSize": 43}, "urn:x:2.0User": {"a": 1}},
    )
    assert read.ignored == (
        "groups",
        "emails.verified",
        f"{ENTERPRISE_URN}:shoeSize",
        "shoeSize",
        "name.givenName",
        "urn:x:2.0User",
    )
    assert read.doc["emails"] == [{"value": ANA}, {"value": "b@x"}]


def test_the_names_of_what_was_left_out_are_bounded() -> None:
    read = user(**{f"{index}{'x' * 1000}": 1 for index in range(1000)})
    assert len(read.ignored) == 100
    assert all(len(name) == 200 for name in read.ignored)


@pytest.mark.parametrize(
    "name",
    ["ana_partner.example#EXT#@contoso.onmicrosoft.com", "Žofie Nováková-Łęcka", "🦊", "Z\u030c", " a b "],
)
def test_cases_55_and_56_names_come_back_as_they_were_sent(name: str) -> None:
    read = user(userName=name, displayName=name)
    assert read.doc["userName"] == name
    assert read.doc["displayName"] == name


def test_case_58_the_order_of_values_is_kept() -> None:
    phones = [{"value": str(index), "type": "work"} for index in range(9, 0, -1)]
    assert user(phoneNumbers=phones).doc["phoneNumbers"] == phones


def test_a_single_value_may_stand_for_a_list() -> None:
    assert user(emails={"value": ANA}).doc["emails"] == [{"value": ANA}]


@pytest.mark.parametrize("form", [ID, {"value": ID}, [{"value": ID}], [ID]])
def test_case_87_a_manager_in_any_form_is_an_object_in_its_extension(form: Any) -> None:
    expected = {ENTERPRISE_URN: {"manager": {"value": ID}}}
    assert user(**{ENTERPRISE_URN: {"manager": form}}).doc.items() >= expected.items()
    assert user(manager=form).doc.items() >= expected.items()


def test_wire_4_attributes_beside_their_extension_are_put_into_it() -> None:
    read = user(Department="Legal", manager=ID, **{ENTERPRISE_URN: {"division": "d"}})
    assert read.doc[ENTERPRISE_URN] == {"division": "d", "department": "Legal", "manager": {"value": ID}}
    assert read.ignored == ()
    both = user(department="Legal", manager="", **{ENTERPRISE_URN: {"department": "Sales"}})
    assert both.doc[ENTERPRISE_URN] == {"department": "Sales"}
    assert both.ignored == ("department",)


def test_case_91_roles_in_the_forms_of_entra() -> None:
    packed = '{"id":"06b0","value":"Admin","displayName":"Admins"}'
    read = user(roles=[{"value": packed}, {"primary": "False", "value": "User", "displayName": "Users"}])
    assert read.doc["roles"] == [
        {"value": "Admin", "display": "Admins"},
        {"primary": False, "value": "User", "display": "Users"},
    ]
    assert read.ignored == ()


@pytest.mark.parametrize(
    ("emails", "address"),
    [
        ([{"value": "home@x", "type": "home"}, {"value": "Work@x", "type": "Work"}], "Work@x"),
        ([{"value": "w@x", "type": "work"}, {"value": "p@x", "type": "home", "primary": True}], "p@x"),
        ([{"value": "w@x", "type": "work"}, {"value": " ", "primary": True}], "w@x"),
        ([{"value": "a@x"}, {"value": "b@x"}], "a@x"),
        ([{"type": "work"}, {"value": ""}], None),
        ([], None),
    ],
)
def test_the_address_that_an_invitation_goes_to(emails: list[Any], address: str | None) -> None:
    assert user(emails=emails).primary_email == address


def test_work_addresses_are_keyed_in_order() -> None:
    values = [("B@X", "work"), ("h@x", "home"), ("a@x", "WORK"), ("", "work"), ("c@x", None)]
    read = user(emails=[{"value": value, "type": kind} for value, kind in values])
    assert read.work_email_keys == ["b@x", "a@x"]


def test_an_address_need_not_be_one_of_the_public_internet() -> None:
    assert user(emails=[{"value": "ana@corp.local"}]).primary_email == "ana@corp.local"


def test_a_group_as_entra_creates_it() -> None:
    read = read_group(sample("entra-wire-7-group"))
    assert read.doc == {
        "schemas": [GROUP_URN],
        "externalId": "7d2b6a1e-77a0-4a34-9d2f-2f1f0f0a4e11",
        "displayName": "Sales EMEA",
    }
    assert read.display_name_key == "sales emea"
    assert read.external_id == "7d2b6a1e-77a0-4a34-9d2f-2f1f0f0a4e11"
    assert (read.members, read.ignored) == ([], ())


def test_case_104_a_member_needs_nothing_but_its_id() -> None:
    read = read_group({"displayName": "g", "members": [{"$ref": None, "value": "u"}, {"Value": "g", "type": "group"}]})
    assert read.members == [Member("u", "User"), Member("g", "Group")]
    assert "members" not in read.doc


@pytest.mark.parametrize(
    ("members", "detail"),
    [
        ({}, "displayName is required."),
        ({"displayName": "\t"}, "displayName must not be blank."),
        ({"displayName": "a" * (MAX_KEY + 1)}, "displayName is longer than 512 characters."),
        ({"displayName": "g", "members": [{"display": "x"}]}, "members.value is required: the id of the member."),
        ({"displayName": "g", "members": [{"value": ""}]}, "members.value is required: the id of the member."),
        ({"displayName": "g", "members": ["u"]}, "members must be an object, not a string (value 1)."),
        ({"displayName": "g", "members": [{"value": "u", "type": "Device"}]}, "members.type must be User or Group."),
    ],
)
def test_a_group_that_does_not_fit_is_refused(members: dict[str, Any], detail: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        read_group(members)
    assert caught.value.detail == detail


@pytest.mark.parametrize(
    ("path", "sent", "kept"),
    [
        ("active", "False", False),
        ("emails.primary", "True", True),
        ("emails", {"Value": ANA}, [{"value": ANA}]),
        ("roles", [{"value": '{"value":"Admin"}'}], [{"value": "Admin"}]),
        (f"{ENTERPRISE_URN}:manager", ID, {"value": ID}),
        (f"{ENTERPRISE_URN}:manager", "", None),
        (ENTERPRISE_URN, {"Department": "Legal"}, {"department": "Legal"}),
        ("name", {"givenName": None}, None),
        ("title", "", ""),
        ("title", None, None),
    ],
)
def test_one_attribute_is_read_as_a_document_would_be(path: str, sent: Any, kept: Any) -> None:
    found = USER.find(path)
    assert found is not None
    assert read_attribute(found, sent, USER) == kept


def test_one_attribute_is_refused_as_in_a_document() -> None:
    found = USER.find("name.givenName")
    assert found is not None
    with pytest.raises(InvalidValueError, match=r"^name\.givenName must be a string, not a number\.$"):
        read_attribute(found, 7, USER)
