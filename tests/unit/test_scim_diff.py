"""The net diff of two documents, as the audit log keeps it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from scim2_models import Path

from models.scim.diff import net_diff
from models.scim.schema import ENTERPRISE_URN, GROUP, USER, USER_URN

DOC: dict[str, Any] = {
    "schemas": [USER_URN, ENTERPRISE_URN],
    "userName": "ana@x.example",
    "active": True,
    "name": {"givenName": "Ana", "familyName": "Nováková"},
    "emails": [{"type": "work", "value": "ana@x.example", "primary": True}, {"type": "home", "value": "a@h.example"}],
    "roles": [{"value": "Admin", "type": "X"}, {"value": "Buyer", "type": "X"}],
    ENTERPRISE_URN: {"department": "Sales", "manager": {"value": "9c1e"}},
}

TEXTS = st.text(alphabet='ab"\\é ', min_size=1, max_size=3)
ELEMENTS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["work", "home", 'o"']),
            "value": TEXTS,
            "display": TEXTS,
            "primary": st.booleans(),
        },
    ).filter(bool),
    min_size=1,
    max_size=3,
)
DOCUMENTS = st.fixed_dictionaries(
    {"userName": TEXTS},
    optional={
        "title": TEXTS,
        "active": st.booleans(),
        "name": st.fixed_dictionaries({"givenName": TEXTS}, optional={"familyName": TEXTS}),
        "emails": ELEMENTS,
        "roles": ELEMENTS,
        ENTERPRISE_URN: st.fixed_dictionaries(
            {"department": TEXTS}, optional={"manager": st.fixed_dictionaries({"value": TEXTS})}
        ),
    },
)


def changed(**values: Any) -> dict[str, Any]:
    return deepcopy(DOC) | values


def test_a_create_lists_every_attribute_with_its_value() -> None:
    assert net_diff({}, DOC, USER) == [
        {"op": "add", "path": "active", "after": True},
        {"op": "add", "path": 'emails[type eq "home"]', "after": DOC["emails"][1]},
        {"op": "add", "path": 'emails[type eq "work"]', "after": DOC["emails"][0]},
        {"op": "add", "path": "name.familyName", "after": "Nováková"},
        {"op": "add", "path": "name.givenName", "after": "Ana"},
        {"op": "add", "path": 'roles[value eq "Admin"]', "after": DOC["roles"][0]},
        {"op": "add", "path": 'roles[value eq "Buyer"]', "after": DOC["roles"][1]},
        {"op": "add", "path": f"{ENTERPRISE_URN}:department", "after": "Sales"},
        {"op": "add", "path": f"{ENTERPRISE_URN}:manager.value", "after": "9c1e"},
        {"op": "add", "path": "userName", "after": "ana@x.example"},
    ]


def test_a_delete_is_the_mirror_of_a_create() -> None:
    removed = net_diff(DOC, {}, USER)
    assert [item["path"] for item in removed] == [item["path"] for item in net_diff({}, DOC, USER)]
    assert {item["op"] for item in removed} == {"remove"}


def test_a_replaced_value_shows_before_and_after() -> None:
    after = changed(name={"givenName": "Ana", "familyName": "Dvořáková"}, active=False)
    assert net_diff(DOC, after, USER) == [
        {"op": "replace", "path": "active", "before": True, "after": False},
        {"op": "replace", "path": "name.familyName", "before": "Nováková", "after": "Dvořáková"},
    ]


def test_an_element_that_stays_shows_the_sub_attributes_that_differ() -> None:
    work = {"type": "work", "value": "ana.dv@x.example", "display": "Ana"}
    assert net_diff(DOC, changed(emails=[DOC["emails"][1], work]), USER) == [
        {"op": "add", "path": 'emails[type eq "work"].display', "after": "Ana"},
        {"op": "remove", "path": 'emails[type eq "work"].primary', "before": True},
        {"op": "replace", "path": 'emails[type eq "work"].value', "before": "ana@x.example", "after": work["value"]},
    ]


def test_elements_of_one_type_are_told_apart_by_their_value() -> None:
    two = [{"type": "work", "value": "a@x"}, {"type": "work", "value": "b@x"}]
    three = [*two, {"type": "work", "value": 'c"@x'}]
    assert net_diff(changed(emails=two), changed(emails=three), USER) == [
        {"op": "add", "path": 'emails[type eq "work" and value eq "c\\"@x"]', "after": three[2]}
    ]


def test_roles_are_told_apart_by_value_although_they_share_a_type() -> None:
    after = changed(roles=[{"value": "Admin", "type": "X", "primary": True}])
    assert net_diff(DOC, after, USER) == [
        {"op": "add", "path": 'roles[value eq "Admin"].primary', "after": True},
        {"op": "remove", "path": 'roles[value eq "Buyer"]', "before": DOC["roles"][1]},
    ]


def test_elements_that_cannot_be_told_apart_are_one_value() -> None:
    before, after = [{"display": "a"}, {"display": "b"}], [{"display": "b"}, {"display": "c"}]
    assert net_diff({"emails": before}, {"emails": after}, USER) == [
        {"op": "replace", "path": "emails", "before": before, "after": after}
    ]
    assert net_diff({"emails": before}, {"emails": before[::-1]}, USER) == []


def test_lists_of_plain_values_are_one_value() -> None:
    assert net_diff({"x": ["a", "b"]}, {"x": ["b", "a"]}, USER) == []
    assert net_diff({"x": ["a"]}, {"x": ["a", "b"]}, USER) == [
        {"op": "replace", "path": "x", "before": ["a"], "after": ["a", "b"]}
    ]
    assert net_diff({}, {"x": ["a"]}, USER) == [{"op": "add", "path": "x", "after": ["a"]}]


def test_order_of_names_of_elements_and_of_schemas_does_not_matter() -> None:
    after = dict(reversed(changed(emails=DOC["emails"][::-1], schemas=[USER_URN]).items()))
    assert net_diff(DOC, after, USER) == []


def test_an_attribute_whose_kind_changed_is_replaced_as_a_whole() -> None:
    assert net_diff({"x": "a"}, {"x": {"value": "a"}}, USER) == [
        {"op": "replace", "path": "x", "before": "a", "after": {"value": "a"}}
    ]
    assert net_diff({"x": "a"}, {"x": ["a"]}, USER) == [{"op": "replace", "path": "x", "before": "a", "after": ["a"]}]


def test_groups_have_a_diff_too() -> None:
    assert net_diff({"displayName": "A"}, {"displayName": "B"}, GROUP) == [
        {"op": "replace", "path": "displayName", "before": "A", "after": "B"}
    ]


@given(DOCUMENTS, DOCUMENTS)
def test_the_way_back_is_the_mirror_of_the_way_there(before: dict[str, Any], after: dict[str, Any]) -> None:
    there, back = net_diff(before, after, USER), net_diff(after, before, USER)
    names = {"add": "remove", "remove": "add", "replace": "replace"}
    assert [(names[i["op"]], i["path"], i.get("after"), i.get("before")) for i in there] == [
        (i["op"], i["path"], i.get("before"), i.get("after")) for i in back
    ]
    assert net_diff(before, deepcopy(before), USER) == []


@given(DOCUMENTS, DOCUMENTS)
def test_every_path_is_a_scim_path_and_names_what_it_says(before: dict[str, Any], after: dict[str, Any]) -> None:
    for item in net_diff(before, after, USER):
        path = Path[Any](item["path"])
        value = item.get("after", item.get("before"))
        assert value is not None
        assert item.get("before") != item.get("after")
        assert USER.find(f"{path.schema}:{path.attr}" if path.schema else path.attr)
