"""How a change of a user is sent in each dialect, and what the user is afterwards (entra-wire.md §5).

``changed`` is this client's own reading of what a PATCH does; it shares no code with the server, so that it can
judge it.
"""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cli.simulate.body import ENTERPRISE, USER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cli.simulate.body import Dialect

Spoken = Literal["legacy", "compliant"]
Doc = dict[str, Any]

PATCH_OP = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
MANAGER = f"{ENTERPRISE}:manager"

_VALUE_PATH = re.compile(r'(?P<name>\w+)\[type eq "(?P<type>\w+)"\]\.(?P<sub>\w+)')


@dataclass(frozen=True, slots=True)
class Change:
    """A new value of one mapped attribute.

    Attributes:
        path: the target of the mapping, as Entra writes it; ``MANAGER`` and ``roles`` have functions of their own.
        value: what it becomes. Entra never clears an attribute, so it is never null.
    """

    path: str
    value: str | bool


def spoken(dialect: Dialect, turn: int) -> Spoken:
    """Return the dialect of one request; ``mixed`` takes turns."""
    if dialect == "mixed":
        return "compliant" if turn % 2 else "legacy"
    return dialect


def patch(operations: Sequence[Doc]) -> Doc:
    """Return the body of a PATCH."""
    return {"schemas": [PATCH_OP], "Operations": list(operations)}


def operations(changes: Sequence[Change], doc: Doc, dialect: Spoken) -> list[Doc]:
    """Return the operations that bring changes over.

    Args:
        changes: at least one.
        doc: the user as last read: an attribute that is empty there is added, another one replaced (§5.6).
        dialect: legacy sends each attribute by its path, and booleans as strings; compliant sends all attributes
            without a filter in their path as one object of flat keys, unless there is only one of them.
    """
    verbs = {change.path: "replace" if value_at(doc, change.path) is not None else "add" for change in changes}
    if dialect == "legacy":
        return [
            {
                "op": verbs[change.path].capitalize(),
                "path": change.path,
                "value": str(change.value) if isinstance(change.value, bool) else change.value,
            }
            for change in changes
        ]
    flat = [change for change in changes if "[" not in change.path]
    by_path = [change for change in changes if change not in flat or len(flat) == 1]
    sent: list[Doc] = [{"op": verbs[change.path], "path": change.path, "value": change.value} for change in by_path]
    for verb in ("add", "replace") if len(flat) > 1 else ():
        value = {change.path: change.value for change in flat if verbs[change.path] == verb}
        sent += [{"op": verb, "value": value}] if value else []
    return sent


def manager_operation(manager_id: str | None, doc: Doc, dialect: Spoken, form: int) -> Doc:
    """Return the operation that sets, changes or (None) removes the manager, in one of its forms (§5.3)."""
    verb = "replace" if value_at(doc, MANAGER) is not None else "add"
    if dialect == "legacy":
        verb = verb.capitalize()
    if manager_id is None and form % 2:
        return {"op": "Remove" if dialect == "legacy" else "remove", "path": MANAGER}
    if manager_id is None:
        return {"op": "Replace" if dialect == "legacy" else "replace", "path": MANAGER, "value": ""}
    if dialect == "compliant":
        return {"op": verb, "path": MANAGER, "value": {"value": manager_id}}
    if form % 2:
        return {"op": verb, "path": "manager", "value": [{"$ref": None, "value": manager_id}]}
    return {"op": verb, "path": MANAGER, "value": manager_id}


def role_operation(name: str, dialect: Spoken) -> Doc:
    """Return the operation that assigns an app role: legacy adds a JSON text, compliant replaces them all (§5.4)."""
    if dialect == "legacy":
        text = json.dumps({"id": f"role-{name}", "value": name, "displayName": name})
        return {"op": "Add", "path": "roles", "value": [{"value": text}]}
    return {"op": "replace", "path": "roles", "value": [_role(name)]}


def changed(doc: Doc, changes: Sequence[Change]) -> Doc:
    """Return what a user is after changes, as a copy."""
    after = copy.deepcopy(doc)
    for change in changes:
        _assign(after, change.path, change.value)
    return _with_schemas(after)


def with_manager(doc: Doc, manager_id: str | None) -> Doc:
    """Return what a user is with this manager, or without one, as a copy."""
    after = copy.deepcopy(doc)
    if manager_id is not None:
        after.setdefault(ENTERPRISE, {})["manager"] = {"value": manager_id}
    elif ENTERPRISE in after:
        after[ENTERPRISE].pop("manager", None)
        if not after[ENTERPRISE]:
            del after[ENTERPRISE]
    return _with_schemas(after)


def with_role(doc: Doc, name: str, dialect: Spoken) -> Doc:
    """Return what a user is after ``role_operation``, as a copy."""
    after = copy.deepcopy(doc)
    if dialect == "legacy":
        after.setdefault("roles", []).append({"value": name, "display": name})
    else:
        after["roles"] = [_role(name)]
    return after


def value_at(doc: Doc, path: str) -> Any:
    """Return the value that a path names, or None."""
    if found := _VALUE_PATH.fullmatch(path):
        element = _element(doc, found["name"], found["type"])
        return None if element is None else element.get(found["sub"])
    value: Any = doc
    for key in _keys(path):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _assign(doc: Doc, path: str, value: str | bool) -> None:
    if found := _VALUE_PATH.fullmatch(path):
        element = _element(doc, found["name"], found["type"])
        if element is None:
            element = {"type": found["type"]}
            doc.setdefault(found["name"], []).append(element)
        element[found["sub"]] = value
        return
    *parents, last = _keys(path)
    for key in parents:
        doc = doc.setdefault(key, {})
    doc[last] = value


def _element(doc: Doc, name: str, kind: str) -> Doc | None:
    elements: list[Doc] = doc.get(name, [])
    return next((element for element in elements if element.get("type") == kind), None)


def _keys(path: str) -> list[str]:
    """Split a path; the URN has dots of its own (§5.1 rule 2)."""
    if path.startswith(f"{ENTERPRISE}:"):
        return [ENTERPRISE, *path.removeprefix(f"{ENTERPRISE}:").split(".")]
    return path.split(".")


def _role(name: str) -> Doc:
    return {"primary": False, "type": "WindowsAzureActiveDirectoryRole", "display": name, "value": name}


def _with_schemas(doc: Doc) -> Doc:
    return {**doc, "schemas": [USER, *(urn for urn in (ENTERPRISE,) if urn in doc)]}
