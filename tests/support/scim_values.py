"""Hypothesis strategies for SCIM documents, made from the schemas themselves."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from models.scim.reader import MAX_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.scim.schema import Attribute, ResourceSchema

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
LINE = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=MAX_KEY // 8)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
"""Any JSON value."""

_SIMPLE: Mapping[str, st.SearchStrategy[Any]] = {
    "string": TEXT,
    "reference": TEXT,
    "boolean": st.booleans(),
    "integer": st.integers(-(2**63), 2**64 - 1),
    "decimal": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**64 - 1),
    "dateTime": st.datetimes().map(lambda moment: moment.isoformat() + "Z"),
    "binary": st.binary(min_size=1, max_size=20).map(lambda data: base64.b64encode(data).decode()),
}


def resources(schema: ResourceSchema, required: str) -> st.SearchStrategy[dict[str, Any]]:
    """Return documents in SCIM's own form, without anything that is read-only or never returned."""
    members = {
        item.name: _value(item, item.name)
        for item in schema.attributes.values()
        if _is_writable(item) and item.name not in ("schemas", required)
    }
    for extension in schema.extensions.values():
        members[extension.urn] = _object(extension.attributes, extension.urn)
    return st.fixed_dictionaries({required: LINE}, optional=members)


def _is_writable(attribute: Attribute) -> bool:
    return attribute.mutability in ("readWrite", "immutable") and attribute.returned != "never"


def _object(attributes: Mapping[str, Attribute], path: str) -> st.SearchStrategy[dict[str, Any]]:
    members = {item.name: _value(item, f"{path}.{item.name}") for item in attributes.values() if _is_writable(item)}
    return st.fixed_dictionaries({}, optional=members).filter(bool)


def _value(attribute: Attribute, path: str) -> st.SearchStrategy[Any]:
    single: st.SearchStrategy[Any]
    if attribute.type == "complex":
        single = _object(attribute.sub_attributes, path)
    elif path in ("emails.value", "externalId", "members.value", "roles.value") or path.endswith("manager.value"):
        single = LINE.filter(lambda text: not text.startswith("{"))
    elif path == "members.type":
        single = st.sampled_from(["User", "Group"])
    else:
        single = _SIMPLE[attribute.type]
    if not attribute.multi_valued:
        return single
    return st.lists(single, min_size=1, max_size=3).map(_one_primary)


def _one_primary(values: list[Any]) -> list[Any]:
    seen = False
    for value in values:
        if isinstance(value, dict) and value.get("primary"):
            value["primary"] = not seen
            seen = True
    return values
