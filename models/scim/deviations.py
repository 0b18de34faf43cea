"""Saying in words how a request departs from the letter of SCIM where `models.scim.entra` put up with it.

It looks at the request anew, after the answer and only for the few that operators are shown, so that no request
waits for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from models.errors import ClientError
from models.scim import entra
from models.scim.redact import last_name, shown_path

if TYPE_CHECKING:
    from collections.abc import Iterator

_BOOLEAN_NAMES: Final = frozenset(("active", "primary"))
_OPERATIONS: Final = "operations"
_MOST: Final = 6


def deviations(method: str, body: dict[str, Any], query: str = "") -> list[str]:
    """Return the tolerated deviations of one request, each as a clause, at most a handful.

    Args:
        method: `POST`, `PUT` or `PATCH`.
        body: the parsed body.
        query: the query string.
    """
    found: list[str] = []
    for clause in _of(method, body, query):
        if clause not in found:
            found.append(clause)
        if len(found) == _MOST:
            break
    return found


def _of(method: str, body: dict[str, Any], query: str) -> Iterator[str]:
    if "aadoptscim" in query.lower():
        yield "a feature flag of Entra stands in the query"
    operations = next((item for name, item in body.items() if name.lower() == _OPERATIONS), None)
    if isinstance(operations, list) and method == "PATCH":
        for operation in operations:
            if isinstance(operation, dict):
                yield from _operation({name.lower(): item for name, item in operation.items()})
    elif operations is None:
        yield from _resource(body)


def _operation(operation: dict[str, Any]) -> Iterator[str]:
    op, path, value = operation.get("op"), operation.get("path"), operation.get("value")
    if isinstance(op, str) and op != op.lower() and op.lower() in ("add", "replace", "remove"):
        yield f"op is written {op}, not {op.lower()}"
    if isinstance(path, str):
        if path.partition(".")[0].lower() in entra.MISPLACED:
            yield f"{path.partition('.')[0]} stands outside its extension"
        if isinstance(op, str) and op.lower() == "remove" and value not in (None, [], ""):
            yield "remove names its values beside the path"
        yield from _value(last_name(path), value)
    elif isinstance(value, dict):
        for name, item in value.items():
            if "[" in name or ("." in name and not name.lower().startswith("urn:")):
                yield f"a value without a path has names that are paths, such as {shown_path(name)}"
            yield from _value(last_name(name), item)
            if name.lower() in entra.MISPLACED:
                yield f"{name} stands outside its extension"


def _resource(body: dict[str, Any]) -> Iterator[str]:
    for name in body:
        lower = name.lower()
        if lower in entra.SERVER_OWNED:
            yield f"{lower} is sent, which only the server sets"
        if lower in entra.MISPLACED:
            yield f"{name} stands outside its extension"
    schemas = next((item for name, item in body.items() if name.lower() == "schemas"), None)
    if isinstance(schemas, list):
        yield from (
            f"{shown_path(name)} is sent, but not listed in schemas"
            for name in body
            if name.lower().startswith("urn:ietf:") and name not in schemas
        )
    for name, value in body.items():
        yield from _value(name.lower(), value)
        if isinstance(value, dict) and name.lower().startswith("urn:"):
            for inner, item in value.items():
                yield from _value(inner.lower(), item)


def _value(name: str, value: Any) -> Iterator[str]:
    """Tell what is odd about an attribute's value, down to the sub-attributes of its items."""
    if name in _BOOLEAN_NAMES and entra.boolean(value) is not None:
        yield f'{name} is the string "{value}", not a boolean'
    elif name == "manager" and value is not None:
        yield from _rewritten("manager", value, "is not an object with a value")
    elif name == "roles":
        for role in value if isinstance(value, list) else [value]:
            yield from _rewritten("role", role, "is packed as JSON into a string, or has displayName for display")
    items = value if isinstance(value, list) else [value]
    for item in items:
        if isinstance(item, dict) and name != "manager":
            for inner, part in item.items():
                if inner.lower() in _BOOLEAN_NAMES and entra.boolean(part) is not None:
                    yield f'{inner} is the string "{part}", not a boolean'


def _rewritten(kind: str, value: Any, words: str) -> Iterator[str]:
    try:
        changed = getattr(entra, kind)(value) != value
    except ClientError:
        return  # that was refused, not tolerated
    if changed:
        yield f"a {kind} {words}"
