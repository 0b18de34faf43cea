"""Filters as text: what is read, what is refused and how, and which ones the store's indexes answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scim2_models import ScimFilter

from models.errors import InvalidFilterError
from models.scim.filter import Lookup, lookup, parse_filter, quick_lookup
from models.scim.schema import GROUP, USER

if TYPE_CHECKING:
    from models.scim.schema import ResourceSchema

NAMES = ["userName", "emails", "type", "urn:ietf:params:scim:schemas:core:2.0:User:title", ".value"]
SIGNS = ["not", "and", "or", "eq", "pr", "co", "xx", "(", ")", "[", "]", "true", "null", "1.5"]
LETTERS = ['"a"', '"\\""', "\\", '"', "é", "\x00", "\ud800"]
WORDS = st.lists(st.sampled_from(NAMES + SIGNS + LETTERS), max_size=12)


@pytest.mark.parametrize(
    "text",
    [
        'userName eq "ana@x.example"',
        'USERNAME EQ "ana@x.example"',
        '  userName \t eq  "ana@x.example" ',
        'userName eq "Team \\"A\\" \\u00c9"',
        'title pr and not (active eq false or name.familyName co "N")',
        'emails[type eq "work" and value co "@x"]',
        'urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:employeeNumber eq "4711"',
        'meta.lastModified gt "2011-05-13T04:42:34Z" or active ne null',
    ],
)
def test_the_grammar_is_the_one_of_scim2_models(text: str) -> None:
    assert parse_filter(text) == ScimFilter(text).ast


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("externalId eq jyoung", 'externalId eq "jyoung"'),
        ("externalId eq 06b0b2a1-7a1e", 'externalId eq "06b0b2a1-7a1e"'),
        ("userName eq ana@x.example and active eq true", 'userName eq "ana@x.example" and active eq true'),
        ("(externalId eq a\\b)", '(externalId eq "a\\\\b")'),
        ('title eq "x eq y" and externalId eq z', 'title eq "x eq y" and externalId eq "z"'),
        ("externalId eq truely", 'externalId eq "truely"'),
        ('emails[type eq "work"] eq "a@x"', 'emails[type eq "work"].value eq "a@x"'),
        ("emails[type eq work] EQ a@x", 'emails[type eq "work"].value eq "a@x"'),
        ('emails[type eq "] eq"].value eq "a@x"', 'emails[type eq "] eq"].value eq "a@x"'),
    ],
)
def test_spellings_of_entra_are_read_as_they_are_meant(sent: str, meant: str) -> None:
    assert parse_filter(sent) == ScimFilter(meant).ast


def test_a_number_or_literal_is_not_taken_for_a_bare_word() -> None:
    for text in ("active eq true", "active eq NULL", "x eq -1.5e3"):
        assert parse_filter(text) == ScimFilter(text).ast


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        (" \t", "empty"),
        ("userName", "column"),
        ('userName eq "ana', "column 13"),
        ('userName xx "ana"', "column 10"),
        ('userName eq "a" and', "column"),
        ('(userName eq "a"', "column"),
        ("not userName pr", "column 5"),
        ('emails.value.x eq "a"', "column"),
        ("x eq 1e999", "out of range"),
        ('userName eq "a\\u0000b"', r"U\+0000"),
        ('userName eq "a\x00b"', r"U\+0000"),
        ('userName eq "\\ud800"', "surrogate"),
        ('userName eq "\ud800"', "surrogate"),
        ('userName eq "' + "a" * 5000 + '"', "4096"),
        ("(" * 21 + "title pr" + ")" * 21, "brackets"),
        ("not(" * 25 + "title pr" + ")" * 25, "column 84"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_reason(text: str, says: str) -> None:
    with pytest.raises(InvalidFilterError, match=says) as caught:
        parse_filter(text)
    assert caught.value.body()["scimType"] == "invalidFilter"


def test_limits_are_the_callers() -> None:
    assert parse_filter("(" * 3 + "title pr" + ")" * 3, max_depth=3)
    with pytest.raises(InvalidFilterError, match="nests more than 2"):
        parse_filter("not(not(title pr))", max_depth=2)
    with pytest.raises(InvalidFilterError, match="7 are allowed"):
        parse_filter("title pr", max_length=7)


def test_brackets_within_a_value_do_not_count() -> None:
    assert parse_filter(f'title eq "{"(" * 50}"')
    assert parse_filter(f'title eq "\\"{"(" * 50}" and (active eq true)')


@given(st.one_of(st.text(), WORDS.map(" ".join), WORDS.map("".join)))
def test_no_text_raises_anything_but_invalid_filter(text: str) -> None:
    try:
        tree = parse_filter(text)
    except InvalidFilterError as error:
        assert error.detail  # noqa: PT017 - both outcomes are fine, this one must carry a reason
    else:
        assert parse_filter(str(tree)) == tree


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('userName eq "Ana@x"', Lookup("userName", "Ana@x")),
        ('uSERnAME eQ "Ana@x"', Lookup("userName", "Ana@x")),
        ('urn:ietf:params:scim:schemas:core:2.0:User:userName eq "Ana@x"', Lookup("userName", "Ana@x")),
        ('externalId eq "b3c2"', Lookup("externalId", "b3c2")),
        ("externalId eq jyoung", Lookup("externalId", "jyoung")),
        ('id eq "9c1e"', Lookup("id", "9c1e")),
        ('emails[type eq "work"].value eq "a@x"', Lookup("workEmail", "a@x")),
        ('emails[Type eq "WORK"] eq "a@x"', Lookup("workEmail", "a@x")),
        ('Emails[value eq "a@x" and type eq "work"]', Lookup("workEmail", "a@x")),
    ],
)
def test_matching_queries_are_looked_up(text: str, expected: Lookup) -> None:
    assert lookup(parse_filter(text), USER) == expected


@pytest.mark.parametrize(
    "text",
    [
        'userName ne "a"',
        'userName sw "a"',
        "userName eq null",
        'userName eq "a" and active eq true',
        'not (userName eq "a")',
        'emails.value eq "a@x"',
        'emails[type eq "home"].value eq "a@x"',
        'emails[type eq "work"].value co "a@x"',
        'emails[type eq "work" or value eq "a@x"]',
        'emails[type eq "work" and primary eq true].value eq "a@x"',
        'emails[type eq "work" and primary eq true]',
        'phoneNumbers[type eq "work"].value eq "1"',
        'urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:employeeNumber eq "4711"',
        'displayName eq "a"',
        'nothing eq "a"',
        'nothing[type eq "work"].value eq "a"',
        'meta.version eq "a"',
        "title pr",
    ],
)
def test_every_other_filter_is_not_looked_up(text: str) -> None:
    assert lookup(parse_filter(text), USER) is None


def test_groups_are_looked_up_by_the_attributes_they_have() -> None:
    assert lookup(parse_filter('externalId eq "x"'), GROUP) == Lookup("externalId", "x")
    assert lookup(parse_filter('DisplayName eq "Sales"'), GROUP) == Lookup("displayName", "Sales")
    missing: Any = lookup(parse_filter('userName eq "x"'), GROUP)
    assert missing is None


MATCHES = (
    'userName eq "Ana@x"',
    'uSERnAME  eQ "Ana@x" ',
    'userName eq "Žofie Nováková"',
    'externalId eq "b3c2"',
    'id eq "9c1e"',
    'displayName eq "Sales"',
    'emails[type eq "work"].value eq "a@x"',
    'Emails[Type eq "WORK"].Value EQ "a@x"',
)


@pytest.mark.parametrize("schema", [USER, GROUP])
@pytest.mark.parametrize("text", MATCHES)
def test_what_is_recognised_without_the_grammar_means_what_the_grammar_says(text: str, schema: ResourceSchema) -> None:
    try:
        expected = lookup(parse_filter(text), schema)
    except InvalidFilterError:
        expected = None
    assert quick_lookup(text, schema) == expected


@pytest.mark.parametrize(
    "text",
    [
        'userName eq "a\\"b"',
        'userName eq "a\u0000"',
        'userName eq "a\ud800"',
        'userName eq "a" or userName eq "b"',
        'emails[type eq "home"].value eq "a@x"',
        'title eq "Buyer"',
        'nothing eq "a"',
        f'userName eq "{"a" * 4096}"',
    ],
)
def test_every_other_filter_is_left_to_the_grammar(text: str) -> None:
    assert quick_lookup(text, USER) is None
