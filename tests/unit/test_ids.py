"""Ids: versioned, in the order in which they were made, and at home wherever a UUID is."""

from __future__ import annotations

import copy
from uuid import UUID

from models.ids import derived_id, new_id


def test_ids_are_uuids_of_version_7_in_the_order_of_their_making() -> None:
    made = [new_id() for _ in range(2000)]
    assert made == sorted(set(made))
    assert {(one.version, one.variant) for one in made} == {(7, "specified in RFC 4122")}


def test_an_id_is_the_same_as_the_standard_librarys() -> None:
    mine = new_id()
    other = UUID(str(mine))
    assert isinstance(mine, UUID)
    assert mine == other
    assert other == mine
    assert {mine: 1}[other] == 1
    assert mine.bytes == other.bytes
    assert copy.copy(mine) == mine


def test_what_follows_from_an_id_has_an_id_of_its_own_that_never_changes() -> None:
    origins = [new_id() for _ in range(2000)]
    derived = [derived_id(one, "invitation") for one in origins]
    assert derived == [derived_id(UUID(str(one)), "invitation") for one in origins]
    assert {(one.version, one.variant) for one in derived} == {(7, "specified in RFC 4122")}
    assert len({*origins, *derived, *(derived_id(one, "other") for one in origins)}) == 6000
    moments = [(one.bytes[:6], other.bytes[:6]) for one, other in zip(origins, derived, strict=True)]
    assert all(one == other for one, other in moments)
