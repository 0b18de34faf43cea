"""`sortBy` and `sortOrder`: what is read, what is refused, and that no name of a client's reaches the SQL."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import InvalidValueError
from models.scim.schema import ENTERPRISE_URN, GROUP, USER, USER_URN
from models.scim.sort import Order, SqlType, parse_order, sort_key


@pytest.mark.parametrize(
    ("asked", "path", "kind"),
    [
        ("userName", "userName", "text"),
        ("USERNAME", "userName", "text"),
        (f"{USER_URN}:title", "title", "text"),
        ("name.familyName", "name.familyName", "text"),
        ("emails", "emails.value", "text"),
        ("emails.type", "emails.type", "text"),
        ("active", "active", "text"),
        ("id", "id", "uuid"),
        ("meta.created", "meta.created", "timestamptz"),
        ("groups", "groups.value", "text"),
        (f"{ENTERPRISE_URN}:department", f"{ENTERPRISE_URN}:department", "text"),
        ("manager", f"{ENTERPRISE_URN}:manager.value", "text"),
    ],
)
def test_an_attribute_is_found_as_filters_find_it(asked: str, path: str, kind: SqlType) -> None:
    for sort_order, descending in ((None, False), ("ascending", False), ("descending", True), ("Descending", True)):
        assert parse_order(asked, sort_order, [USER]) == Order(path, descending, kind)


@pytest.mark.parametrize("nothing", [None, "", " "])
def test_without_an_attribute_there_is_no_order_of_the_clients(nothing: str | None) -> None:
    assert parse_order(nothing, "descending", [USER]) is None


@pytest.mark.parametrize(
    ("sort_by", "sort_order", "words"),
    [
        ("shoeSize", None, "unknown"),
        ("members", None, "unknown"),
        ('emails[type eq "work"].value', None, "unknown"),
        ("userName; DROP TABLE users", None, "unknown"),
        ("name", None, "complex"),
        ("meta", None, "complex"),
        (ENTERPRISE_URN, None, "complex"),
        ("x509Certificates", None, "binary"),
        ("password", None, "never returned"),
        ("userName", "upwards", "sortOrder"),
        (None, "upwards", "sortOrder"),
    ],
)
def test_what_has_no_order_is_refused(sort_by: str | None, sort_order: str | None, words: str) -> None:
    with pytest.raises(InvalidValueError, match=words):
        parse_order(sort_by, sort_order, [USER])


def test_of_several_types_one_has_to_have_the_attribute() -> None:
    order = parse_order("userName", None, [USER, GROUP])
    assert order
    assert sort_key(order, GROUP, {}) == 'NULL::text COLLATE "C"'
    assert "userName" in sort_key(order, USER, {})
    with pytest.raises(InvalidValueError):
        parse_order("shoeSize", None, [USER, GROUP])


@given(text=st.text())
def test_only_names_of_the_schema_reach_the_sql(text: str) -> None:
    try:
        order = parse_order(text, None, [USER])
    except InvalidValueError:
        return
    assert order is None or USER.find(order.path)
