"""JSON in and out: what is refused, with which words, and that everything else comes back as it was."""

from __future__ import annotations

import json as stdlib_json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ClientError, InvalidSyntaxError, InvalidValueError
from models.scim import json

DEPTH = 8
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=20,
)


@given(VALUES)
def test_a_value_comes_back_as_it_went_out(value: Any) -> None:
    assert json.parse(json.dumps(value), max_depth=100) == value


@given(VALUES)
def test_it_reads_what_the_standard_library_reads(value: Any) -> None:
    assert json.parse(stdlib_json.dumps(value).encode(), max_depth=100) == value


@given(st.binary(max_size=60) | st.text('[]{},:"\\u0dE+-.1ea \n', max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        value = json.parse(body, max_depth=DEPTH)
    except ClientError as error:
        assert error.detail.endswith(".")  # noqa: PT017 -- most inputs are refused, some are not
    else:
        assert json.parse(json.dumps(value), max_depth=DEPTH) == value


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "The body is empty; a JSON object is expected."),
        (b'{"userName": ana}', "line 1, column 14"),
        (b'{"a": 1,}', "line 1, column 8"),
        (b'{"a"\n:\n NaN}', "line 3, column 2"),
        (b"[Infinity]", "line 1, column 2"),
        (b'{"a": "\xc3\x28"}', "The body is not valid UTF-8."),
        (b"\xff\xfe{\x00}\x00", "The body is not valid UTF-8."),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"a": "\\udc00\\ud800"}', "surrogate"),
        (b'{"a": "\xed\xa0\x80"}', "The body is not valid UTF-8."),
        (b'{"a": "\x00"}', "control character"),
        (b"\x00", "line 1, column 1"),
    ],
)
def test_malformed_json_is_refused_with_the_place(body: bytes, detail: str) -> None:
    with pytest.raises(InvalidSyntaxError) as caught:
        json.parse(body, max_depth=DEPTH)
    assert detail in caught.value.detail


def test_the_error_carries_nothing_of_the_body() -> None:
    with pytest.raises(InvalidSyntaxError) as caught:
        json.parse(b'{"password": "s3cret"', max_depth=DEPTH)
    assert caught.value.__context__ is None
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b'{"a": "x\\u0000"}', "in a"),
        (b'{"name": {"givenName": "\\u0000"}}', "in name.givenName"),
        (b'{"emails": [{}, {"value": "\\u0000"}]}', "in emails[1].value"),
        (b'{"urn:x:y": {"badge": "\\u0000"}}', "in urn:x:y:badge"),
        (b'{"name": {"a\\u0000": 1}}', "in a name inside name"),
        (b'{"\\u0000": 1}', "in a name inside the body"),
        (b'"\\u0000"', "in the body"),
        (b'["\\\\u0000", "\\\\\\u0000"]', "in [1]"),
    ],
)
def test_the_character_nul_is_refused_with_its_place(body: bytes, place: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        json.parse(body, max_depth=DEPTH)
    assert caught.value.detail == f"The character U+0000 cannot be stored; remove it ({place})."


def test_a_backslash_before_u0000_is_text() -> None:
    assert json.parse(b'{"a": "\\\\u0000"}', max_depth=DEPTH) == {"a": "\\u0000"}


@pytest.mark.parametrize(
    "number",
    [
        "18446744073709551616",
        "-9223372036854775809",
        "100000000000000000000000000000000000",
        "1" * 300,
        "1" * 5000,
        "0.1234567890123456789",
        "9007199254740993.0",
        "1e-999",
        "1E-400",
        "1e999",
        "-1e999",
    ],
)
def test_a_number_that_cannot_come_back_is_refused(number: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        json.parse(f'{{"emails": [{{"value": {number}}}]}}'.encode(), max_depth=DEPTH)
    assert number not in caught.value.detail
    assert "emails[0].value" in caught.value.detail or "line 1, column 23" in caught.value.detail


@pytest.mark.parametrize(
    ("number", "value"),
    [
        ("18446744073709551615", 2**64 - 1),
        ("-9223372036854775808", -(2**63)),
        ("-0", 0),
        ("1e300", 1e300),
        ("5e-324", 5e-324),
        ("0.30000000000000004", 0.1 + 0.2),
        ("0.0000000000000000000000000", 0.0),
        ("0e-9999999999999999999999", 0.0),
        ("1.000000000000000000", 1.0),
    ],
)
def test_a_number_within_range_is_kept(number: str, value: float) -> None:
    assert json.parse(number.encode(), max_depth=DEPTH) == value


def test_long_digits_and_exponents_inside_strings_are_text() -> None:
    body = b'{"id": "00000000000000000000000000000001", "x": "[1e-999]", "y": ["99999999999999999999"]}'
    assert json.parse(body, max_depth=DEPTH) == stdlib_json.loads(body)


@pytest.mark.parametrize("opening", ['{"a":', "[", '[{"a":'])
@pytest.mark.parametrize("levels", [9, 1000, 2000, 300_000])
def test_deep_nesting_is_refused(opening: str, levels: int) -> None:
    closing = "".join({"[": "]", "{": "}"}[sign] for sign in reversed(opening) if sign in "[{")
    body = opening * levels + "1" + closing * levels
    with pytest.raises(InvalidSyntaxError) as caught:
        json.parse(body.encode(), max_depth=DEPTH)
    assert caught.value.detail == "The body is nested deeper than 8 levels."


@pytest.mark.parametrize("levels", [1100, 2000])  # orjson gives up for different reasons
def test_deep_nesting_without_an_end_is_refused_as_such(levels: int) -> None:
    with pytest.raises(InvalidSyntaxError, match="nested deeper than 8 levels"):
        json.parse(b"[" * levels, max_depth=DEPTH)


def test_nesting_is_counted_by_depth_and_not_by_brackets() -> None:
    deep = "[" * DEPTH + "]" * DEPTH
    wide = "[" + ",".join(["[[]]"] * 5000) + "]"
    text = '"' + "[" * 5000 + '"'
    for body in (deep, wide, text):
        assert json.parse(body.encode(), max_depth=DEPTH) == stdlib_json.loads(body)


def test_of_a_name_given_twice_the_last_counts() -> None:
    assert json.parse(b'{"a": 1, "a": 2}', max_depth=DEPTH) == {"a": 2}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"[]", "a list"),
        (b'"x"', "a string"),
        (b"1", "a number"),
        (b"1.5", "a number"),
        (b"true", "a boolean"),
        (b"null", "null"),
    ],
)
def test_a_body_that_is_no_object_is_refused(body: bytes, kind: str) -> None:
    with pytest.raises(InvalidSyntaxError) as caught:
        json.object_body(body, max_depth=DEPTH)
    assert caught.value.detail == f"The body must be a JSON object, not {kind}."


def test_an_object_body_is_returned() -> None:
    assert json.object_body(b' {"a": [1]} ', max_depth=DEPTH) == {"a": [1]}
