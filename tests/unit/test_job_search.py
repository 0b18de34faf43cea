from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.backlog import STATES
from models.errors import UsageError
from models.job_search import LONGEST, QUALIFIERS, TEXT, Search, Term, parse_search, read_age
from models.jobs import KINDS, QUEUES

ID = "01990000-0000-7000-8000-000000000001"


def test_a_search_is_a_list_of_conditions() -> None:
    text = 'state:dead,retry kind:invitation.send -tenant:acme age:>1h user:"ana maria*" ana@example.com'
    assert parse_search(text) == Search(
        (
            Term("state", ("dead", "retry")),
            Term("kind", ("invitation.send",)),
            Term("tenant", ("acme",), negated=True),
            Term("age", (">1h",)),
            Term("user", ("ana maria*",)),
            Term(TEXT, ("ana@example.com",)),
        )
    )


@pytest.mark.parametrize("text", ["", " ", "\t\n"])
def test_nothing_is_a_search_for_everything(text: str) -> None:
    assert parse_search(text) == Search()
    assert parse_search(text).states() == set(STATES)


@pytest.mark.parametrize(
    ("text", "states"),
    [
        ("state:dead", {"dead"}),
        ("state:dead,retry -state:retry", {"dead"}),
        ("-state:done,cancelled", {"staged", "running", "retry", "dead"}),
        ("state:dead state:done", set()),
        ("kind:user.create", set(STATES)),
    ],
)
def test_states_are_what_all_conditions_leave(text: str, states: set[str]) -> None:
    assert parse_search(text).states() == states


def test_case_matters_neither_in_qualifiers_nor_in_states_and_ids() -> None:
    found = parse_search(f"STATE:Dead externalid:E1 Id:{ID.upper()}")
    assert found == Search((Term("state", ("dead",)), Term("externalId", ("E1",)), Term("id", (ID,))))


def test_values_may_hold_colons_and_quotes_anything() -> None:
    assert parse_search("error:smtp:550").terms == (Term("error", ("smtp:550",)),)
    assert parse_search(r'user:"a \"b\" \\ c:d, e"').terms == (Term("user", (r'a "b" \ c:d, e',)),)
    assert parse_search('"state:dead"').terms == (Term(TEXT, ("state:dead",)),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("foo:bar", r"no qualifier foo: \(at character 1\); there are state, kind, queue, tenant, user, externalId"),
        ("state:dead foo:bar", r"no qualifier foo: \(at character 12\)"),
        ("-colour:red", "no qualifier colour:"),
        ("state:ded", r"no state ded \(at character 7\); there are staged, running, retry, done, dead, cancelled"),
        ("kind:user.fold", r"no kind user\.fold .*user\.create, invitation\.send"),
        ("queue:letters", "no queue letters .*provision, email"),
        ("age:5m", r"'5m' is no age \(at character 5\); write for example age:>5m"),
        ("age:>5y", "is no age"),
        ("id:7", "'7' is no id"),
        ("correlation:x", "'x' is no id"),
        ("user:*", "user: lacks a value"),
        ("state:", r"cannot be read \(at character 7\).*Qualifiers are state"),
        ("state: dead", r"cannot be read \(at character 7\)"),
        ('user:"ana', "cannot be read"),
        ("a,b", r"cannot be read \(at character 2\)"),
        ("kind:,", "cannot be read"),
        ('""', "no text"),
        ("\x00", "NUL"),
        ("\ud800", "halves"),
        ("x" * (LONGEST + 1), "at most 2000 characters"),
        ("user:" + ",".join(f"u{n}" for n in range(201)), "at most 200 values"),
    ],
)
def test_what_cannot_be_searched_is_told_with_its_place(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_search(text)


def test_an_age_has_a_sign_and_a_length() -> None:
    assert read_age(">90s") == (">", timedelta(seconds=90))
    assert read_age("<2d") == ("<", timedelta(days=2))


_TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda text: text.strip() and text.strip("*")
)
_VALUES: dict[str, st.SearchStrategy[str]] = {
    "state": st.sampled_from(STATES),
    "kind": st.sampled_from(tuple(KINDS)),
    "queue": st.sampled_from(QUEUES),
    "age": st.builds(
        lambda sign, number, unit: f"{sign}{number}{unit}",
        st.sampled_from("<>"),
        st.integers(0, 999_999),
        st.sampled_from("smhd"),
    ),
    "id": st.builds(lambda number: str(UUID(int=number)), st.integers(0, 2**128 - 1)),
    "correlation": st.builds(lambda number: str(UUID(int=number)), st.integers(0, 2**128 - 1)),
}
_TERMS = st.sampled_from(list(QUALIFIERS)).flatmap(
    lambda qualifier: st.builds(
        Term,
        st.just(qualifier),
        st.lists(_VALUES.get(qualifier, _TEXTS), min_size=1, max_size=4, unique=True).map(tuple),
        st.booleans(),
    )
) | st.builds(lambda text: Term(TEXT, (text,)), _TEXTS)


@given(st.lists(_TERMS, max_size=5).map(lambda terms: Search(tuple(terms))))
def test_what_is_written_reads_as_it_was(search: Search) -> None:
    assert parse_search(str(search)) == search


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_in_a_sentence(text: str) -> None:
    try:
        search = parse_search(text)
    except UsageError as error:
        refusal = error.detail or ""
    else:
        refusal = "."
        assert parse_search(str(search)) == search
    assert refusal.endswith(".")
