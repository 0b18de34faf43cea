"""In which order a list comes (RFC 7644 §3.4.2.3): `sortBy` and `sortOrder` into SQL.

Names reach the SQL only as the schema registry spells them, values not at all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from models.errors import InvalidValueError
from models.scim import entra
from models.scim.filter_sql import COLUMNS
from models.scim.filter_value import Operand, literal, moment_sql

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from models.scim.filter_sql import Relation
    from models.scim.schema import Attribute, ResolvedPath, ResourceSchema

SqlType = Literal["text", "numeric", "timestamptz", "uuid"]

LONGEST_KEY: Final = 256
"""Characters of a string that decide about its place; those who agree in so many come in the order of their ids.

A cursor carries the key of the last resource, and has to fit into an address.
"""
_NUMBERS = ("integer", "decimal")
_ORDERS = {"ascending": False, "descending": True}


@dataclass(frozen=True, slots=True)
class Order:
    """By what a list is sorted; resources that are equal in it, or have no value, come in the order of their ids."""

    path: str
    """The attribute as the schema spells it; never a complex one."""
    descending: bool
    type: SqlType
    """What the key is compared as."""

    @property
    def collation(self) -> str:
        """Return the SQL that has strings compared by code point, whatever the database's collation."""
        return ' COLLATE "C"' if self.type == "text" else ""


def parse_order(sort_by: str | None, sort_order: str | None, schemas: Sequence[ResourceSchema]) -> Order | None:
    """Read the `sortBy` and `sortOrder` parameters.

    A complex attribute stands for its `value` where it has one (`emails`, `manager`).

    Args:
        sort_by: An attribute path in the notation of RFC 7644 §3.10; None or empty for the default order.
        sort_order: `ascending` (the default) or `descending`.
        schemas: The resource types that are listed. One of them must have the attribute.

    Raises:
        InvalidValueError: No type has the attribute; it is complex, binary or never returned; or the order is
            neither of the two. RFC 7644 §3.12 has no keyword for this, and a list in another order than the one
            asked for would look right.
    """
    descending = _ORDERS.get((sort_order or "ascending").lower())
    if descending is None:
        raise InvalidValueError("sortOrder must be ascending or descending.")
    path = (sort_by or "").strip()
    if not path:
        return None
    for schema in schemas:
        if found := entra.find(schema, path):
            value = _value(found)
            return Order(value.canonical, descending, _sql_type(value))
    raise InvalidValueError(f"{' and '.join(each.name for each in schemas)} cannot be sorted by {path[:100]}: unknown.")


def sort_key(order: Order, schema: ResourceSchema, relations: Mapping[str, Relation]) -> str:
    """Return SQL for what a row `r` is sorted by, NULL when it has no value.

    A list counts as its primary element or else its first one. Strings are compared without their case unless
    the attribute is case-exact.

    Args:
        order: What `parse_order` returned.
        schema: The type of the row; NULL for all if it does not have the attribute.
        relations: Attributes that are not in the document, as `compile_filter` takes them.
    """
    found = schema.find(order.path)
    if found is None:
        return f"NULL::{order.type}{order.collation}"
    key = _key(found, _leaf(found), schema, relations)
    return f"{key}{order.collation}" if order.type == "text" else f"({key})::{order.type}"


def _value(found: ResolvedPath) -> ResolvedPath:
    """Return the path of what is compared: a complex attribute's `value`."""
    target = found.sub_attribute or found.attribute
    if target is not None and target.type == "complex" and (value := target.sub_attributes.get("value")):
        found, target = replace(found, sub_attribute=value), value
    for part in (found.attribute, target):
        if part and (part.returned == "never" or part.mutability == "writeOnly"):
            raise InvalidValueError(f"{found.canonical} is never returned, so it cannot be sorted by.")
    if target is None or target.type == "complex":
        raise InvalidValueError(f"{found.canonical} is complex: sort by one of its sub-attributes.")
    if target.type == "binary":
        raise InvalidValueError(f"{found.canonical} is binary, which has no order.")
    return found


def _leaf(found: ResolvedPath) -> Attribute:
    leaf = found.sub_attribute or found.attribute
    assert leaf is not None  # noqa: S101  an order names an attribute: `_value` has seen to it
    return leaf


def _sql_type(found: ResolvedPath) -> SqlType:
    leaf = _leaf(found)
    if found.canonical == "id":
        return "uuid"
    if leaf.type in _NUMBERS:
        return "numeric"
    return "timestamptz" if leaf.type == "dateTime" else "text"


def _key(found: ResolvedPath, leaf: Attribute, schema: ResourceSchema, relations: Mapping[str, Relation]) -> str:
    columns = {
        **COLUMNS,
        "meta.resourceType": (f"{literal(schema.name)}::text", "text"),
        "meta.location": ("r.id::text", "text"),  # what stands before the id is the same for all
    }
    if column := columns.get(found.canonical):
        sql, kind = column
        return sql if kind in ("uuid", "timestamptz") else _text(Operand(leaf, found.canonical, sql, "text"))
    if not found.extension and (relation := relations.get(found.keys[0])):
        return _first_row(relation, found, leaf)
    operand = Operand(leaf, found.canonical, f"({_first(found)})")
    if leaf.type in _NUMBERS:
        return f"CASE jsonb_typeof({operand.sql}) WHEN 'number' THEN {operand.text}::numeric END"
    return moment_sql(operand.text) if leaf.type == "dateTime" else _text(operand)


def _text(operand: Operand) -> str:
    exact = operand.attribute.case_exact or operand.attribute.type == "boolean"
    prepared = f"normalize({operand.text}, NFC)" if exact else f"usher_fold({operand.text})"
    return f"left({prepared}, {LONGEST_KEY})"


def _first_row(relation: Relation, found: ResolvedPath, leaf: Attribute) -> str:
    """Return SQL for an attribute whose elements are rows; the first is the one with the least id."""
    column = relation.columns.get(leaf.name.lower())
    if column is None:
        return "NULL::text"  # the schema has it, the store does not: nobody has a value
    value = _text(Operand(leaf, found.canonical, column.sql, column.kind))
    by = relation.columns["value"].sql
    return f"(SELECT {value} FROM {relation.source} ORDER BY {by} LIMIT 1)"  # noqa: S608  constants only


def _first(found: ResolvedPath) -> str:
    """Return SQL for the JSON value in the document: of a list's primary element, or else of its first."""
    chain = "r.doc"
    parts = [part for part in (found.attribute, found.sub_attribute) if part]
    if found.extension:
        chain += f" -> {literal(found.extension.urn)}"
    for part in parts:
        whole = f"{chain} -> {literal(part.name)}"
        if not part.multi_valued:
            chain = whole
        elif "primary" in part.sub_attributes:
            path = literal(f'$.{json.dumps(part.name)}[*] ? (@."primary" == true)')
            chain = f"COALESCE(jsonb_path_query_first({chain}, {path}), {whole} -> 0)"
        else:
            chain = f"{whole} -> 0"
    return chain
