"""Cursors: what was put in comes out, for the same walk and within the hour; anything else is refused."""

from __future__ import annotations

import re
import string
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ExpiredCursorError, InvalidCountError, InvalidCursorError
from models.scim.cursor import CURSOR_SECONDS, Position, make_cursor, read_cursor

SECRET = b"a-secret-key-for-tests-of-enough-length"
WALK = ("tenant", "token", "/Users", "", "userName", "ascending")
NOW = 1_800_000_000.5
HERE = Position(UUID("01990000-0000-7000-8000-00000000002a"), "ana")

positions = st.builds(Position, st.uuids(), st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=256))


@given(position=positions, count=st.integers(1, 10_000), walk=st.lists(st.text(st.characters(codec="utf-8"))))
def test_a_cursor_stands_for_the_position_that_it_was_made_of(position: Position, count: int, walk: list[str]) -> None:
    cursor = make_cursor(SECRET, walk, position, count, NOW)
    assert re.fullmatch(r"[A-Za-z0-9._~-]+", cursor)  # RFC 9865 §2: unreserved characters only
    assert len(cursor) < 1500  # with a filter beside it, it fits into an address
    for asked in (None, count):
        assert read_cursor(SECRET, walk, cursor, asked, NOW + CURSOR_SECONDS - 1) == (position, count)


@pytest.mark.parametrize("part", range(len(WALK)))
def test_a_cursor_of_another_walk_is_refused(part: int) -> None:
    cursor = make_cursor(SECRET, WALK, HERE, 10, NOW)
    other = [*WALK]
    other[part] += "x"
    with pytest.raises(InvalidCursorError):
        read_cursor(SECRET, other, cursor, 10, NOW)


def test_two_walks_whose_parts_read_the_same_in_a_row_are_two() -> None:
    cursor = make_cursor(SECRET, ("ab", "c"), HERE, 10, NOW)
    with pytest.raises(InvalidCursorError):
        read_cursor(SECRET, ("a", "bc"), cursor, 10, NOW)


def test_a_cursor_signed_with_another_secret_is_refused() -> None:
    with pytest.raises(InvalidCursorError):
        read_cursor(SECRET, WALK, make_cursor(SECRET[::-1], WALK, HERE, 10, NOW), 10, NOW)


@given(data=st.data())
def test_a_cursor_that_was_touched_is_refused(data: st.DataObject) -> None:
    cursor = make_cursor(SECRET, WALK, HERE, 10, NOW)
    place = data.draw(st.integers(0, len(cursor) - 1))
    sign = data.draw(st.sampled_from(sorted({*string.ascii_letters, *string.digits, *"-_=.~ é"} - {cursor[place]})))
    for touched in (cursor[:place] + sign + cursor[place + 1 :], cursor[:place], cursor + sign):
        with pytest.raises(InvalidCursorError):
            read_cursor(SECRET, WALK, touched, 10, NOW)


@given(text=st.text(max_size=80))
def test_no_text_that_was_made_elsewhere_is_a_cursor(text: str) -> None:
    with pytest.raises(InvalidCursorError):
        read_cursor(SECRET, WALK, text, None, NOW)


def test_a_cursor_expires() -> None:
    cursor = make_cursor(SECRET, WALK, HERE, 10, NOW, seconds=60)
    assert read_cursor(SECRET, WALK, cursor, 10, NOW + 59) == (HERE, 10)
    with pytest.raises(ExpiredCursorError):
        read_cursor(SECRET, WALK, cursor, 10, NOW + 60)


def test_the_count_stays_that_of_the_first_page() -> None:
    with pytest.raises(InvalidCountError):
        read_cursor(SECRET, WALK, make_cursor(SECRET, WALK, HERE, 10, NOW), 11, NOW)
