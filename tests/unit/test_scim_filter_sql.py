"""What the compiler refuses, and that nothing of a filter but its operators reaches the SQL."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scim2_models.path import AttrPath, CompareOperator, Comparison, ValuePath

from models.errors import InvalidFilterError
from models.scim.filter import parse_filter
from models.scim.filter_sql import compile_filter
from models.scim.schema import ENTERPRISE_URN, GROUP, USER

BADGE_URN = "urn:example:scim:Badge:2.0:User"
BADGE = {
    "id": BADGE_URN,
    "attributes": [
        {"name": "level", "type": "integer"},
        {"name": "score", "type": "decimal"},
        {"name": "since", "type": "dateTime"},
        {"name": "passes", "type": "complex", "multiValued": True, "subAttributes": [{"name": "label"}]},
        {"name": "o", "type": "complex", "subAttributes": [{"name": "many", "multiValued": True}]},
        {"name": "os", "type": "complex", "multiValued": True, "subAttributes": [{"name": "m", "multiValued": True}]},
    ],
}
SCHEMA = USER.with_extensions([BADGE])


def compiled(text: str) -> tuple[str, list[object]]:
    fragment = compile_filter(parse_filter(text), SCHEMA, first_param=1)
    return fragment.sql, fragment.params


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('nonsense eq "x"', "User has no attribute nonsense"),
        ("nonsense pr", "User has no attribute nonsense"),
        ('nonsense[type eq "work"]', "User has no attribute nonsense"),
        ('name.nonsense eq "x"', "User has no attribute name.nonsense"),
        ('emails[nonsense eq "x"]', "emails has no sub-attribute nonsense"),
        ('emails[type eq "work" or nonsense pr]', "emails has no sub-attribute nonsense"),
        ('urn:example:unknown:2.0:User:x eq "y"', "has no attribute urn:example:unknown"),
        ('title eq "x" and not (nonsense eq "y")', "has no attribute nonsense"),
        ('title eq "x" or nonsense eq "y"', "has no attribute nonsense"),
        ('password eq "x"', "never returned"),
        ("password pr", "never returned"),
        ('members eq "x"', "User has no attribute members"),
        ('groups.value eq "x"', "groups cannot be filtered on here"),
        ("groups pr", "groups cannot be filtered on here"),
        ('groups[value eq "x"]', "groups cannot be filtered on here"),
        ("active gt true", "gt cannot be used on active, which is of type boolean"),
        ("active gt null", "gt cannot be used on active"),
        ('active co "t"', "co cannot be used on active"),
        ('x509Certificates.value sw "QQ=="', "sw cannot be used on x509Certificates.value, which is of type binary"),
        ('x509Certificates.value gt "QQ=="', "gt cannot be used"),
        ('x509Certificates.value eq "Q"', "must be compared with a value of type binary"),
        (f'{BADGE_URN}:level co "1"', "co cannot be used"),
        (f'{BADGE_URN}:since sw "2011"', "sw cannot be used"),
        ('active eq "yes"', "active must be compared with a value of type boolean"),
        ("active eq 1", "active must be compared with a value of type boolean"),
        ("title eq 5", "title must be compared with a value of type string"),
        ("title eq true", "title must be compared with a value of type string"),
        ('emails[primary eq "x"]', "emails.primary must be compared with a value of type boolean"),
        (f'{BADGE_URN}:level eq "5"', "level must be compared with a value of type integer"),
        (f"{BADGE_URN}:level eq 1.5", "level must be compared with a value of type integer"),
        (f"{BADGE_URN}:level eq true", "level must be compared with a value of type integer"),
        (f'{BADGE_URN}:score eq "5"', "score must be compared with a value of type decimal"),
        (f'{BADGE_URN}:since gt "yesterday"', "since must be compared with a value of type dateTime"),
        ('meta.created gt "2011-02-30T00:00:00Z"', "meta.created must be compared with a value of type dateTime"),
        ('meta.created gt "0001-01-01T00:00:00+14:00"', "meta.created must be compared with a value of type dateTime"),
        ("meta.created gt 5", "meta.created must be compared with a value of type dateTime"),
        ('name eq "x"', "name is complex: name one of its sub-attributes"),
        ('addresses eq "x"', "addresses is complex"),
        ('meta eq "x"', "meta is complex"),
        ('meta[version eq "x"]', "meta is not a list"),
        ('title[value eq "x"]', "title has no values to select from"),
        (f'{ENTERPRISE_URN}[department eq "x"]', "has no values to select from"),
        (f'{ENTERPRISE_URN} eq "x"', "is complex"),
        ('emails[urn:x:y:type eq "work"]', "plain names"),
        ('emails[type.value eq "work"]', "plain names"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(text: str, says: str) -> None:
    with pytest.raises(InvalidFilterError, match=re.escape(says)):
        compiled(text)


def test_selections_cannot_be_nested() -> None:
    tree = parse_filter('emails[type eq "work"]')
    assert isinstance(tree, ValuePath)
    with pytest.raises(InvalidFilterError, match="cannot be read"):
        parse_filter('emails[phoneNumbers[type eq "work"]]')
    nested = replace(tree, val_filter=tree)  # the library keeps its trees: one that was changed would be everybody's
    with pytest.raises(InvalidFilterError, match="within the brackets of emails"):
        compile_filter(nested, USER, first_param=1)


def test_numbers_of_placeholders_go_on_from_the_first() -> None:
    fragment = compile_filter(parse_filter('title co "a" and nickName co "b"'), USER, first_param=7)
    assert re.findall(r"\$[0-9]+", fragment.sql) == ["$7", "$8"]
    assert fragment.params == ["a", "b"]


@pytest.mark.parametrize(
    "text",
    [
        'emails[type eq "work"].value eq "x"',
        'emails[type eq "work" and value co "x"] and title eq "y"',
        'emails[primary eq true] or meta.location eq "x"',
        'meta.location co null or title eq "x"',
        'id eq "x" or id sw "x"',
        f'{BADGE_URN}:o.many eq "x" or {BADGE_URN}:os.m eq "x" or {BADGE_URN}:os[m co "x" or m eq null]',
    ],
)
def test_every_parameter_is_used_and_every_placeholder_has_one(text: str) -> None:
    sql, params = compiled(text)
    assert {int(number) for number in re.findall(r"\$([0-9]+)", sql)} == set(range(1, len(params) + 1))


@given(
    st.sampled_from(["title", "emails.value", "externalId", "meta.version", f"{ENTERPRISE_URN}:manager.value"]),
    st.sampled_from(list(CompareOperator)),
    st.text(min_size=3).filter(lambda text: "\x00" not in text),
)
def test_a_value_is_never_part_of_the_sql(path: str, op: CompareOperator, value: str) -> None:
    uri, _, rest = path.rpartition(":")
    attr, _, sub = rest.partition(".")
    node = Comparison(AttrPath(attr, sub or None, uri or None), op, value)
    with_value = compile_filter(node, USER, first_param=1)
    without = compile_filter(Comparison(node.attr_path, op, "x"), USER, first_param=1)
    assert with_value.sql == without.sql
    assert len(with_value.params) == len(without.params)


def test_names_are_those_of_the_schema_whatever_was_written() -> None:
    assert compiled('TITLE co "x"') == compiled('title co "x"')
    assert "'title'" in compiled('TiTlE co "x"')[0]


def test_a_group_has_its_own_attributes() -> None:
    assert compile_filter(parse_filter('displayName co "x"'), GROUP, first_param=1).params == ["x"]
    with pytest.raises(InvalidFilterError, match="members cannot be filtered on here"):
        compile_filter(parse_filter('members eq "x"'), GROUP, first_param=1)
    with pytest.raises(InvalidFilterError, match="Group has no attribute userName"):
        compile_filter(parse_filter('userName eq "x"'), GROUP, first_param=1)
