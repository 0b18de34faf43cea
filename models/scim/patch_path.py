"""What the path of a PATCH operation points at (RFC 7644 §3.5.2), and the operations of a body themselves."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from scim2_models import InvalidPathException, Path
from scim2_models.path import (
    AttrPath,
    CompareOperator,
    Comparison,
    FilterNode,
    LogicalExpr,
    LogicalOperator,
    Present,
    ValuePath,
)

from models.errors import InvalidFilterError, InvalidPathError, InvalidSyntaxError, TooLargeError
from models.scim import entra
from models.scim.filter_match import Matcher, compile_matcher
from models.scim.json import kind_of
from models.scim.schema import ResolvedPath

if TYPE_CHECKING:
    from models.scim.schema import ResourceSchema

_MAX_LENGTH = 2048
_SELECTION = re.compile(r'[^\[\]"]+\[.*\](?:\.[\w$-]+)?', re.DOTALL)
_OPS = ("add", "replace", "remove")


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a PATCH body."""

    op: str
    """``add``, ``replace`` or ``remove``."""
    path: str | None
    value: Any = None
    has_value: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What a path points at: the resource, an extension, an attribute, a sub-attribute, or selected elements."""

    path: ResolvedPath
    """Empty for the resource as a whole."""
    condition: FilterNode | None = None
    matches: Matcher | None = None
    """The condition, compiled."""
    cost: int = 1
    """About how long the condition takes on one element."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A path that names nothing in the schema."""

    name: str
    """The attribute without any filter, which may hold personal data."""


ROOT = Target(ResolvedPath(None, None, None))


def read_operations(body: Any, *, max_operations: int) -> list[Operation]:
    """Read the body of a PATCH; names and ``op`` in any case, further names are ignored (entra-cases.md 62, 76).

    Raises:
        InvalidSyntaxError: The body is not a PATCH request.
        InvalidPathError: A path is not a string.
        TooLargeError: There are more operations than are allowed.
    """
    operations = _any_case(body, "The body of a PATCH").get("operations")
    if not isinstance(operations, list) or not operations:
        raise InvalidSyntaxError("A PATCH needs Operations: a list of at least one operation.")
    if len(operations) > max_operations:
        raise TooLargeError(f"The PATCH has {len(operations)} operations; {max_operations} are allowed.")
    return [_read_operation(item, f"Operation {number}") for number, item in enumerate(operations, 1)]


def _read_operation(item: Any, where: str) -> Operation:
    members = _any_case(item, where)
    op = members.get("op")
    if not isinstance(op, str) or op.lower() not in _OPS:
        raise InvalidSyntaxError(f"{where}: op must be add, replace or remove.")
    path = members.get("path")
    if path is not None and not isinstance(path, str):
        raise InvalidPathError(f"{where}: path must be a string, not {kind_of(path)}.")
    return Operation(op.lower(), path or None, members.get("value"), "value" in members)


def _any_case(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidSyntaxError(f"{where} must be a JSON object, not {kind_of(value)}.")
    return {name.lower(): item for name, item in value.items()}


def resolve(schema: ResourceSchema, text: str | None) -> Target | Unknown:
    """Return what a path points at.

    Args:
        schema: The resource type.
        text: The path; without one, or with the URN of the core schema, the resource itself.

    Raises:
        InvalidPathError: It is not a path, or selects elements of what is not a list.
        InvalidFilterError: The filter in it cannot be read or does not fit the attribute.
    """
    if text is None:
        return ROOT
    if found := entra.find(schema, text):
        return Target(found)
    if len(text) > _MAX_LENGTH:
        raise InvalidPathError(f"The path has {len(text)} characters; {_MAX_LENGTH} are allowed.")
    return _resolve(schema, text)


@lru_cache(maxsize=2048)
def _resolve(schema: ResourceSchema, text: str) -> Target | Unknown:
    if text.lower() == schema.urn.lower():
        return ROOT
    try:
        node = Path[Any](text).ast
    except InvalidPathException as error:
        if _SELECTION.fullmatch(text.strip()):
            raise InvalidFilterError(f"The filter in the path cannot be read: {error.detail}.") from error
        raise InvalidPathError(f"The path cannot be read: {error.detail}.") from error
    if node is None:
        return ROOT
    if isinstance(node, AttrPath):
        found = entra.find(schema, str(node))
        return Target(found) if found else Unknown(str(node))
    selection = node if isinstance(node, ValuePath) else _as_selection(node)
    name = f"{selection.attr_path}.{selection.sub_attr}" if selection.sub_attr else str(selection.attr_path)
    found = entra.find(schema, name)
    if found is None or found.attribute is None:
        return Unknown(name)
    if not found.attribute.multi_valued:
        raise InvalidPathError(f"{selection.attr_path} is not a list to select values from.")
    matcher = compile_matcher(selection.val_filter, found.attribute, str(selection.attr_path))
    return Target(found, selection.val_filter, matcher, 1 + len(text) // 64)


def _as_selection(node: Comparison | Present) -> ValuePath:
    """Read ``emails.type eq "work"`` as ``emails[type eq "work"]`` (RFC 7644 erratum 7122)."""
    inner = AttrPath(node.attr_path.sub_attr or "value")
    head = AttrPath(node.attr_path.attr, None, node.attr_path.uri)
    if isinstance(node, Present):
        return ValuePath(head, Present(inner))
    return ValuePath(head, Comparison(inner, node.op, node.value))


def eq_terms(condition: FilterNode) -> dict[str, Any] | None:
    """Return the values that a filter of nothing but ``eq`` and ``and`` asks for, by name as written; else None."""
    terms: tuple[FilterNode, ...] = (condition,)
    if isinstance(condition, LogicalExpr) and condition.op is LogicalOperator.and_:
        terms = condition.terms
    values: dict[str, Any] = {}
    for term in terms:
        if not isinstance(term, Comparison) or term.op is not CompareOperator.eq or term.value is None:
            return None
        values[term.attr_path.attr] = term.value
    return values
