"""Changes of membership in a PATCH on a group, by the numbers of entra-cases.md F and entra-wire.md §7."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import (
    ClientError,
    InvalidFilterError,
    InvalidSyntaxError,
    InvalidValueError,
    MutabilityError,
    TooLargeError,
)
from models.scim.document import Member
from models.scim.patch import apply_operations
from models.scim.patch_members import MemberChanges, split_member_operations
from models.scim.schema import GROUP, GROUP_URN

if TYPE_CHECKING:
    from models.scim.patch_path import Operation

U1, U2, U3 = Member("u1", "User"), Member("u2", "User"), Member("u3", "User")


def split(*operations: dict[str, Any], **options: Any) -> tuple[MemberChanges, list[Operation]]:
    return split_member_operations({"Operations": list(operations)}, **options)


def changes(*operations: dict[str, Any]) -> MemberChanges:
    found, rest = split(*operations)
    assert rest == []
    return found


def op(name: str, path: str | None, *value: Any) -> dict[str, Any]:
    operation: dict[str, Any] = {"op": name} if path is None else {"op": name, "path": path}
    return operation | {"value": value[0]} if value else operation


@pytest.mark.parametrize("path", ["members", "MEMBERS", f"{GROUP_URN}:members"])
@pytest.mark.parametrize(
    "value",
    [
        [{"$ref": None, "value": "u1"}, {"$ref": None, "value": "u2"}],
        [{"Value": "u1", "display": "Ana", "type": None}, {"value": "u2", "type": "user"}],
        ["u1", "u2"],
    ],
)
def test_104_members_are_added_in_every_shape(path: str, value: Any) -> None:
    assert changes(op("Add", path, value)) == MemberChanges(add=(U1, U2))
    assert changes(op("add", None, {path: value})) == MemberChanges(add=(U1, U2))


def test_a_single_member_needs_no_list() -> None:
    assert changes(op("Add", "members", {"value": "u1"})) == MemberChanges(add=(U1,))
    assert changes(op("Add", "members", "u1")) == MemberChanges(add=(U1,))
    assert changes(op("add", 'members[value eq "u1"]', {"display": "Ana"})) == MemberChanges(add=(U1,))


def test_a_nested_group_keeps_its_type() -> None:
    assert changes(op("Add", "members", [{"value": "g1", "type": "Group"}])).add == (Member("g1", "Group"),)


@pytest.mark.parametrize("verb", ["Replace", "replace"])
def test_92_replace_names_all_who_stay(verb: str) -> None:
    assert changes(op(verb, "members", [{"value": "u1"}])) == MemberChanges(replace=True, add=(U1,))
    assert changes(op(verb, None, {"members": [{"value": "u1"}]})) == MemberChanges(replace=True, add=(U1,))
    nothings: list[Any] = [[], None, ""]
    for nothing in nothings:
        assert changes(op(verb, "members", nothing)) == MemberChanges(replace=True)


def test_92_a_replace_that_does_not_name_members_leaves_them_alone() -> None:
    found, rest = split(op("replace", None, {"displayName": "X"}), op("replace", "externalId", "e"))
    assert not found
    assert [(item.path, item.value) for item in rest] == [(None, {"displayName": "X"}), ("externalId", "e")]


@pytest.mark.parametrize("value", [[{"$ref": None, "value": "u1"}], {"value": "u1"}, ["u1"], "u1"])
def test_93_remove_with_a_value_removes_only_that(value: Any) -> None:
    assert changes(op("Remove", "members", value)) == MemberChanges(remove=frozenset({"u1"}))


def test_93_an_empty_list_of_members_to_remove_removes_nobody() -> None:
    assert not changes(op("Remove", "members", []))


@pytest.mark.parametrize(
    "path", ['members[value eq "u1"]', f'{GROUP_URN}:Members[VALUE EQ "u1"]', 'members.value eq "u1"']
)
def test_94_filtered_remove(path: str) -> None:
    assert changes(op("remove", path)) == MemberChanges(remove=frozenset({"u1"}))
    both = changes(op("remove", 'members[value eq "u1" or value eq "u2"]'))
    assert both == MemberChanges(remove=frozenset({"u1", "u2"}))


def test_remove_without_a_value_removes_all() -> None:
    assert changes(op("remove", "members")) == MemberChanges(replace=True)
    assert changes(op("remove", "members", None)) == MemberChanges(replace=True)


def test_operations_count_in_their_order() -> None:
    add, remove = op("add", "members", ["u1", "u2"]), op("remove", 'members[value eq "u1"]')
    assert changes(add, remove) == MemberChanges(add=(U2,), remove=frozenset({"u1"}))
    assert changes(remove, add) == MemberChanges(add=(U1, U2))
    replace = op("replace", "members", ["u3"])
    assert changes(add, remove, replace) == MemberChanges(replace=True, add=(U3,))
    assert changes(replace, add, remove) == MemberChanges(replace=True, add=(U3, U2))


def test_what_is_left_goes_to_the_document() -> None:
    group = {"schemas": [GROUP_URN], "displayName": "Sales"}
    found, rest = split(
        op("Replace", "displayName", "Sales EMEA"),
        op("add", None, {"externalId": "e", "Members": ["u1"], "x y": 1}),
        op("Remove", "members", ["u2"]),
        op("Add", "colour", "red"),
    )
    assert found == MemberChanges(add=(U1,), remove=frozenset({"u2"}))
    result = apply_operations(group, rest, GROUP)
    assert result.doc == group | {"displayName": "Sales EMEA", "externalId": "e"}
    assert result.ignored == ("x y", "colour")


@pytest.mark.parametrize(
    ("operation", "error", "says"),
    [
        (op("remove", 'members[type eq "User"]'), InvalidFilterError, "by their value only"),
        (op("remove", 'members[value eq "u1" and type eq "User"]'), InvalidFilterError, "by their value only"),
        (op("remove", 'members[not (value eq "u1")]'), InvalidFilterError, "by their value only"),
        (op("remove", "members[value eq null]"), InvalidFilterError, "by their value only"),
        (op("remove", 'members[colour eq "u1"]'), InvalidFilterError, "no sub-attribute colour"),
        (op("replace", 'members[value eq "u1"].value', "u2"), MutabilityError, "members.value cannot be changed"),
        (op("add", "members"), InvalidValueError, r"Operation 1 \(add\): A value is needed"),
        (op("add", "members", [{"display": "Ana"}]), InvalidValueError, "members.value is required"),
        (op("add", "members", [5]), InvalidValueError, "members must be an object"),
        (op("add", "members", [{"value": 5}]), InvalidValueError, "members.value must be a string"),
        (op("add", "members", [{"value": "u1", "type": "Robot"}]), InvalidValueError, "User or Group"),
        (op("sing", "members", "u1"), InvalidSyntaxError, "op must be"),
    ],
)
def test_what_cannot_be_done_says_why(operation: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        split(operation)


def test_limits() -> None:
    many = [{"value": f"u{number}"} for number in range(10_000)]
    assert len(changes(op("Add", "members", many)).add) == 10_000
    half = many[:5_000]
    assert changes(op("Add", "members", half), op("Remove", "members", half)).add == ()
    with pytest.raises(TooLargeError, match="more than 10000 members"):
        split(op("Add", "members", many), op("Remove", 'members[value eq "x"]'))
    with pytest.raises(TooLargeError, match="more than 2 members"):
        split(op("Add", "members", many[:3]), max_members=2)
    with pytest.raises(TooLargeError, match="2 operations"):
        split(op("Add", "members", []), op("Add", "members", []), max_operations=1)


IDS = st.lists(st.sampled_from(["u1", "u2", "u3", "u4"]), max_size=3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["add", "replace", "remove"]), IDS),
        st.tuples(st.just("clear"), st.just([])),
        st.tuples(st.just("filter"), IDS.filter(bool)),
    ),
    min_size=1,
    max_size=5,
)


@given(st.sets(st.sampled_from(["u1", "u2", "u3", "u4", "u5"])), STEPS)
def test_the_net_change_does_what_the_steps_would_do(before: set[str], steps: list[tuple[str, list[str]]]) -> None:
    expected = set(before)
    operations = []
    for step, ids in steps:
        if step == "add":
            expected |= set(ids)
        elif step == "replace":
            expected = set(ids)
        elif step == "clear":
            expected = set()
        else:
            expected -= set(ids)
        if step == "filter":
            condition = " or ".join(f'value eq "{identifier}"' for identifier in ids)
            operations.append(op("remove", f"members[{condition}]"))
        else:
            operations.append(op("remove", "members") if step == "clear" else op(step, "members", ids))
    found = changes(*operations)
    added = {member.value for member in found.add}
    assert not added & found.remove
    assert (set() if found.replace else before - found.remove) | added == expected


@given(
    st.recursive(
        st.one_of(st.none(), st.integers(), st.text()),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["value", "type", "members", "op", "path", "Operations"]), inner)
        ),
    )
)
def test_nothing_raises_anything_but_a_client_error(value: Any) -> None:
    for body in (
        value,
        {"Operations": [op("add", "members", value)]},
        {"Operations": [op("remove", "members", value)]},
    ):
        try:
            split_member_operations(body)
        except ClientError as error:
            assert error.detail  # noqa: PT017 - both outcomes are fine
