from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.simulate.body import CUSTOM, ENTERPRISE, MISSPELT_ENTERPRISE, SHAPES, USER, Create, Dialect, compose, returned
from cli.simulate.people import people

if TYPE_CHECKING:
    from collections.abc import Iterator


def creates(count: int = 200, dialect: Dialect = "compliant", manager_id: str | None = "boss") -> list[Create]:
    return [compose(person, dialect, manager_id) for person in people(11, count)]


def of_shape(shape: str, dialect: Dialect = "compliant") -> Create:
    return next(create for create in creates(dialect=dialect, manager_id=None) if create.shape == shape)


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield value


@pytest.mark.parametrize("dialect", ["legacy", "compliant", "mixed"])
def test_every_shape_is_sent_and_expects_the_same_in_every_dialect(dialect: Dialect) -> None:
    made = creates(dialect=dialect)
    assert {create.shape for create in made} == set(SHAPES)
    assert [create.expected for create in made] == [create.expected for create in creates(dialect="compliant")]


def test_legacy_sends_strings_compliant_sends_booleans_mixed_takes_turns() -> None:
    def sends_booleans(create: Create) -> bool:
        return any(isinstance(leaf, bool) for leaf in leaves(create.body))

    def sends_strings(create: Create) -> bool:
        return any(leaf in ("True", "False") for leaf in leaves(create.body))

    assert not any(sends_booleans(create) for create in creates(dialect="legacy"))
    assert not any(sends_strings(create) for create in creates(dialect="compliant"))
    for shape in set(SHAPES) - {"four"}:
        mixed = [create for create in creates(dialect="mixed") if create.shape == shape]
        assert any(sends_booleans(create) for create in mixed)
        assert any(sends_strings(create) for create in mixed)


@given(seed=st.integers(), number=st.integers(0, 300))
def test_what_comes_back_has_no_nulls_no_meta_and_reads_as_itself(seed: int, number: int) -> None:
    create = compose(list(people(seed, number + 1))[number], "mixed")
    assert None not in leaves(create.expected)
    assert "meta" not in create.expected
    assert isinstance(create.expected["active"], bool)
    assert returned(create.expected) == create.expected


def test_four_attributes_are_all_of_the_four_attribute_mapping() -> None:
    create = of_shape("four")
    assert set(create.body) == {"schemas", "userName", "name", "emails"}
    assert create.expected["active"] is True


def test_nulls_are_those_of_microsofts_example() -> None:
    create = of_shape("nulls")
    assert create.body["schemas"] == [USER, MISSPELT_ENTERPRISE]
    assert create.body["department"] is None
    assert create.body["manager"] is None
    assert create.expected["schemas"] == [USER]
    assert not {"department", "manager", "title", "addresses"} & create.expected.keys()


def test_an_undeclared_extension_is_expected_back_with_its_urn() -> None:
    create = of_shape("undeclared")
    assert create.body["schemas"] == [USER]
    assert "id" in create.body
    assert create.expected["schemas"] == [USER, ENTERPRISE]
    assert create.expected[ENTERPRISE] == create.body[ENTERPRISE]


def test_a_custom_extension_may_come_back_or_not() -> None:
    create = of_shape("custom")
    assert CUSTOM in create.body
    assert CUSTOM not in create.expected
    assert create.optional == {CUSTOM: create.body[CUSTOM]}


def test_pascal_case_is_sent_and_canonical_names_come_back() -> None:
    create = of_shape("pascal")
    assert {"UserName", "Active", "DisplayName"} <= create.body.keys()
    assert {"userName", "active", "displayName"} <= create.expected.keys()
    assert create.in_other_case()["UserName"] == create.expected["userName"].swapcase()


def test_a_manager_is_sent_as_a_bare_string_and_comes_back_as_an_object() -> None:
    create = next(create for create in creates() if "manager" in create.body.get(ENTERPRISE, {}))
    assert create.body[ENTERPRISE]["manager"] == "boss"
    assert create.expected[ENTERPRISE]["manager"] == {"value": "boss"}


def test_people_are_matched_by_each_attribute_that_entra_offers() -> None:
    made = creates()
    assert {create.match.path for create in made} == {"userName", "externalId", 'emails[type eq "work"].value'}
    for create in made:
        assert create.match.case_exact == (create.match.path == "externalId")
        assert create.match.other_case != create.match.filter


def test_only_the_active_with_an_address_are_invitable() -> None:
    for create in creates():
        assert create.invitable == (create.person.active or create.shape == "four") & bool(
            create.expected.get("emails")
        )


def test_a_duplicate_in_another_case_differs_in_name_and_has_no_external_id() -> None:
    create = of_shape("default")
    other = create.in_other_case()
    assert other["userName"] == create.body["userName"].swapcase()
    assert "externalId" not in other


def test_a_value_of_which_nothing_is_assigned_is_left_out() -> None:
    assert returned({"schemas": [USER], "name": {"givenName": None}, "emails": [{"value": None}], "roles": []}) == {
        "active": True,
        "schemas": [USER],
    }
