"""The search language of the audit log: what is read, what is refused and where, and what bounds the time."""

from __future__ import annotations

import string
from datetime import UTC, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.audit.actions import ACTIONS
from models.audit.filter_sql import where
from models.audit.grammar import quote, read_terms
from models.audit.moments import read_range
from models.audit.search import QUALIFIERS, Condition, Search, read_search
from models.errors import InvalidQueryError

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
ID = UUID("01a20ab6-5dd8-7668-8a5f-b88463023ad9")


def search(text: str) -> Search:
    return read_search(text, now=NOW)


def conditions(text: str) -> list[Condition]:
    return list(search(text).conditions)


def refusal(text: str) -> InvalidQueryError:
    with pytest.raises(InvalidQueryError) as caught:
        search(text)
    return caught.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \t\n ", []),
        ("action:auth.token.issue", [Condition("action", ("auth.token.issue",))]),
        ("ACTION:Auth.Token.Issue", [Condition("action", ("auth.token.issue",))]),
        ("-outcome:failure,denied", [Condition("outcome", ("failure", "denied"), negated=True)]),
        ('target:"a b",c', [Condition("target", ("a b", "c"))]),
        (r'target:"\"x\\"', [Condition("target", ('"x\\',))]),
        ("target:a:b", [Condition("target", ("a:b",))]),
        ("  word  -another ", [Condition("", ("word",)), Condition("", ("another",), negated=True)]),
        ('"two words"', [Condition("", ("two words",))]),
        ("10:30 a,b", [Condition("", ("10:30",)), Condition("", ("a,b",))]),
        ("a-b_c", [Condition("", ("a-b_c",))]),
        (f"id:{ID} job:{ID.hex}", [Condition("id", (ID,)), Condition("job", (ID,))]),
        ("severity:>=4", [Condition("severity", (4, 5))]),
        ("severity:<low,critical", [Condition("severity", (1, 5))]),
        ("severity:2..medium", [Condition("severity", (2, 3))]),
        ("severity:>5", [Condition("severity", (0,))]),
    ],
)
def test_a_search_is_read(text: str, expected: list[Condition]) -> None:
    assert conditions(text) == expected


def test_a_family_of_actions_is_all_of_its_names() -> None:
    (found,) = conditions("action:scim.user.*")
    assert set(found.values) == {name for name in ACTIONS if name.startswith("scim.user.")}
    assert len(conditions("action:*")[0].values) == len(ACTIONS)


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("colour:red", 0, "no qualifier colour:"),
        ("word -actoin:x", 5, "Did you mean action:?"),
        ("action:", 7, "value is missing behind 'action:'"),
        ("action: scim.user.create", 7, "without a space"),
        ("target:a,", 9, "value is missing"),
        ("target:,a", 7, "value is missing"),
        ('target:""', 7, "is empty"),
        ('word "open', 5, "never closed"),
        ('target:"open', 7, "never closed"),
        ('a"b', 1, "never closed"),
        ('target:a"b"', 8, "Something unexpected"),
        ("word - other", 5, "stands before the term"),
        ("--word", 1, "stands before the term"),
        ("ab", 0, "at least 3 characters"),
        ("word e\u0301a", 5, "at least 3 characters"),
        ("action:scim.user.crate", 7, "There is no action scim.user.crate; there are "),
        ("action:scim.user.create,nothing.*", 24, "no action nothing.*"),
        ("outcome:failed", 8, "there are pending, success, failure, denied"),
        ("phase:done", 6, "there are requested, applied, failed, denied"),
        ("severity:6", 9, "no severity"),
        ("ip:10.0.0.300", 3, "no address"),
        ("correlation:7", 12, "no id"),
        ("created:yesterday", 8, "is no time"),
        ("created:2026-02-30", 8, "is no time"),
        ("-created:24h", 0, "takes one range"),
        ("created:1h,2h", 0, "takes one range"),
        ("created:>=2026-01-01", 0, "longer than 92 days"),
        ("a\x00b", 1, "nothing stored"),
        ("abc \udcff", 4, "nothing stored"),
        ("x" * 2001, 2000, "longer than 2000"),
        ("word " * 41, 200, "more than 40 terms"),
        ("target:" + ",".join("a" * 51), 107, "more than 50 values"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(text: str, position: int, words: str) -> None:
    error = refusal(text)
    assert words in error.detail
    assert error.position == position


def test_a_refusal_names_the_words_that_are_right() -> None:
    assert refusal("colour:red").expected == tuple(f"{name}:" for name in QUALIFIERS)
    assert all(name in refusal("colour:red").detail for name in QUALIFIERS)
    assert refusal("outcome:x").expected == ("pending", "success", "failure", "denied")
    assert refusal("action:x").expected == tuple(ACTIONS)


@pytest.mark.parametrize(
    ("text", "since", "until"),
    [
        ("", "2026-06-08T12:00", "2026-06-15T12:00"),
        ("created:2026-06-01..2026-06-10", "2026-06-01T00:00", "2026-06-11T00:00"),
        ("created:2026-06-05", "2026-06-05T00:00", "2026-06-06T00:00"),
        ("created:>=2026-06-05", "2026-06-05T00:00", "2026-06-15T12:00"),
        ("created:>2026-06-05", "2026-06-06T00:00", "2026-06-15T12:00"),
        ("created:<2026-06-05", "2026-05-29T00:00", "2026-06-05T00:00"),
        ("created:<=2026-06-05", "2026-05-30T00:00", "2026-06-06T00:00"),
        ("created:>=2026-06-05 created:<2026-06-07", "2026-06-05T00:00", "2026-06-07T00:00"),
        ("created:24h", "2026-06-14T12:00", "2026-06-15T12:00"),
        ("created:>=30d", "2026-05-16T12:00", "2026-06-15T12:00"),
        ("created:2w..1d", "2026-06-01T12:00", "2026-06-14T12:00:00.000001"),
        ("created:2026-06-05T10:00Z..*", "2026-06-05T10:00", "2026-06-15T12:00"),
        ("created:2026-06-05t10:00:01.5+02:00..*", "2026-06-05T08:00:01.500000", "2026-06-15T12:00"),
        ("created:*..2026-06-05", "2026-05-30T00:00", "2026-06-06T00:00"),
        ("created:>=2030-01-01", "2026-06-15T12:00", "2026-06-15T12:00"),
        ("created:9999-12-31", "2026-06-15T12:00", "2026-06-15T12:00"),
        ("created:>=2026-03-15T12:00", "2026-03-15T12:00", "2026-06-15T12:00"),
        (f"correlation:{ID} created:>=2025-01-01", "2025-01-01T00:00", "2026-06-15T12:00"),
    ],
)
def test_a_range_of_time_always_bounds_it(text: str, since: str, until: str) -> None:
    found = search(text)
    assert found.since == datetime.fromisoformat(since).replace(tzinfo=UTC)
    assert found.until == datetime.fromisoformat(until).replace(tzinfo=UTC)


def test_days_are_those_of_the_reader() -> None:
    found = read_search("created:2026-06-05", now=NOW, zone=ZoneInfo("Europe/Berlin"))
    assert found.since == datetime(2026, 6, 4, 22, tzinfo=UTC)
    assert found.until == datetime(2026, 6, 5, 22, tzinfo=UTC)


def test_days_of_a_change_of_clocks_are_whole() -> None:
    begin, end = read_range("2026-03-29", NOW, ZoneInfo("Europe/Berlin")) or (None, None)
    assert begin is not None
    assert end is not None
    assert end - begin == timedelta(hours=23)


@pytest.mark.parametrize("named", [f"id:{ID}", f"correlation:{ID}", f"job:{ID}", "target:ana"])
def test_who_names_something_may_reach_back_as_far_as_there_is(named: str) -> None:
    assert search(named).since < datetime(1971, 1, 1, tzinfo=UTC)
    assert search(f"{named} created:>=2001-01-01").since.year == 2001
    assert "92 days" in refusal(f"-{named} created:>=2001-01-01").detail


VALUES = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(st.lists(VALUES.filter(str.strip), min_size=1, max_size=5), st.booleans())
def test_any_value_can_be_asked_for(values: list[str], negated: bool) -> None:
    text = ("-" if negated else "") + "target:" + ",".join(quote(value) for value in values)
    assert conditions(text) == [Condition("target", tuple(values), negated)]


@given(st.text(max_size=60) | st.text(string.printable, max_size=60) | st.text(' -:,."\\*<>=actionre12', max_size=40))
def test_any_text_is_read_or_refused_with_a_place_in_it(text: str) -> None:
    try:
        terms = read_terms(text)
    except InvalidQueryError as error:
        refused = error
    else:
        assert all(0 <= value.position < len(text) for term in terms for value in term.values)
        return
    assert refused.position is not None
    assert 0 <= refused.position <= len(text)


@given(st.text(max_size=60), st.lists(st.sampled_from([f"{name}:" for name in QUALIFIERS]), max_size=4))
def test_whatever_is_asked_the_tenant_and_the_time_come_first_and_no_text_is_in_the_sql(
    text: str, names: list[str]
) -> None:
    try:
        found = search(" ".join(name + text for name in names) or text)
    except InvalidQueryError:
        return
    made = where(found, ID)
    assert made.parts[0] == "tenant_id = $1::uuid"
    assert made.parts[1:3] == ["occurred_at >= $2::timestamptz", "occurred_at < $3::timestamptz"]
    assert made.values[:3] == [ID, found.since, found.until]
    # All that is joined to them is in parentheses, so no OR in it reaches the tenant.
    assert all(part.startswith("(") for part in made.parts[3:])
    kept = [value for value in made.values if isinstance(value, str) and len(value) > 12 and "'" in value]
    assert all(value not in str(made) for value in kept)
