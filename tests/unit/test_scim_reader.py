"""Each type of attribute, as a tenant's own schema can have it (RFC 7643 §2.3)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from models.errors import InvalidValueError
from models.scim.document import read_user
from models.scim.schema import USER, USER_URN
from tests.support.scim_values import resources

BADGE = "urn:ietf:params:scim:schemas:extension:Badge:2.0:User"
TYPES = ("string", "boolean", "decimal", "integer", "dateTime", "binary", "reference")
SCHEMA = USER.with_extensions(
    [
        {
            "id": BADGE,
            "attributes": [
                *({"name": f"a{kind}", "type": kind} for kind in TYPES),
                *({"name": f"many{kind}", "type": kind, "multiValued": True} for kind in TYPES),
                {
                    "name": "door",
                    "type": "complex",
                    "subAttributes": [{"name": "room", "required": True}, {"name": "floor", "type": "integer"}],
                },
            ],
        },
        {"id": "urn:example:Parking", "attributes": [{"name": "lot", "required": True}, {"name": "row"}]},
    ]
)


def read(name: str, value: Any) -> Any:
    document = read_user({"userName": "a", BADGE: {name: value}}, SCHEMA)
    assert document.ignored == ()
    return document.doc.get(BADGE, {}).get(name)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("string", ""),
        ("string", "a\nb"),
        ("boolean", False),
        ("integer", 0),
        ("integer", -(2**63)),
        ("integer", 2**64 - 1),
        ("decimal", 0.1),
        ("decimal", 5),
        ("decimal", -1e300),
        ("dateTime", "2026-01-31T12:00:00Z"),
        ("dateTime", "2026-01-31T12:00:00"),
        ("dateTime", "2024-02-29T23:59:59.123456789+14:00"),
        ("dateTime", "0001-01-01T00:00:00-13:59"),
        ("binary", "AAECAw=="),
        ("binary", ""),
        ("reference", "../Users/1"),
    ],
)
def test_a_value_of_its_type_is_kept(kind: str, value: Any) -> None:
    assert read(f"a{kind}", value) == value
    assert type(read(f"a{kind}", value)) is type(value)
    assert read(f"many{kind}", [value, value]) == [value, value]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("string", 1),
        ("string", False),
        ("string", ["a"]),
        ("boolean", "yes"),
        ("boolean", 0),
        ("integer", True),
        ("integer", 1.0),
        ("integer", "1"),
        ("decimal", True),
        ("decimal", "1.5"),
        ("decimal", float("inf")),
        ("decimal", float("nan")),
        ("dateTime", 1769860800),
        ("dateTime", ""),
        ("dateTime", "2026-01-31"),
        ("dateTime", "2026-01-31 12:00:00Z"),
        ("dateTime", "2026-02-30T12:00:00Z"),
        ("dateTime", "2026-01-31T24:00:00Z"),
        ("dateTime", "2026-01-31T12:00:61Z"),
        ("dateTime", "2026-01-31T12:00:00+14:01"),
        ("dateTime", "2026-01-31T12:00:00Z\n"),
        ("dateTime", "٢٠٢٦-01-31T12:00:00Z"),
        ("dateTime", "0000-01-01T00:00:00Z"),
        ("binary", "A"),
        ("binary", "AAECAw"),
        ("binary", "AA EC"),
        ("binary", "AA=A"),
        ("binary", "é==="),
        ("binary", "A" * (64 * 1024 + 4)),
        ("binary", 1),
        ("reference", 1),
    ],
)
def test_a_value_of_another_type_is_refused(kind: str, value: Any) -> None:
    with pytest.raises(InvalidValueError, match=f"^{BADGE}:a{kind} ".replace(".", r"\.")):
        read(f"a{kind}", value)
    with pytest.raises(InvalidValueError, match=r"\(value 2\)\.$"):
        read(f"many{kind}", [None, value])


def test_a_single_simple_value_is_not_a_list() -> None:
    with pytest.raises(InvalidValueError, match="must be a list, not a string"):
        read("manystring", "a")


def test_a_required_sub_attribute_is_required_when_its_attribute_is_there() -> None:
    assert read("door", {"room": "7"}) == {"room": "7"}
    assert read("door", {"floor": None}) is None
    with pytest.raises(InvalidValueError, match=r":door\.room is required\.$"):
        read("door", {"floor": 1})


def test_a_required_attribute_is_required_when_its_extension_is_there() -> None:
    assert read_user({"userName": "a"}, SCHEMA).doc["schemas"] == [USER_URN]
    with pytest.raises(InvalidValueError, match=r"^urn:example:Parking:lot is required\.$"):
        read_user({"userName": "a", "urn:example:Parking": {"row": "1"}}, SCHEMA)


@given(resources(SCHEMA, "userName"))
def test_reading_again_changes_nothing_with_own_schemas_either(sent: dict[str, Any]) -> None:
    parking = sent.get("urn:example:Parking")
    if parking is not None:
        parking.setdefault("lot", "1")
    door = sent.get(BADGE, {}).get("door")
    if door is not None:
        door.setdefault("room", "1")
    document = read_user(sent, SCHEMA)
    assert document.doc.items() >= sent.items()
    assert read_user(document.doc, SCHEMA) == document
