"""Replaying the audit log: what the applied events of a user come to, by their diffs alone.

It knows the form of a diff (`models.scim.diff.net_diff`) and nothing of how the application changes users.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from models.scim import entra

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from models.scim.schema import ResourceSchema

Document = dict[str, Any]

_CREATE = "scim.user.create"
_DELETE = "scim.user.delete"


class ReplayError(AssertionError):
    """An event does not follow from those before it."""


class Replayed(NamedTuple):
    """A user as the log tells it."""

    doc: Document
    version: int


class Step(NamedTuple):
    """One part of a path: a name, and which elements of the list by that name, if it is one."""

    name: str
    terms: tuple[tuple[str, Any], ...]


def replay(events: Iterable[Mapping[str, Any]], schema: ResourceSchema) -> Replayed | None:
    """Return the user whom events lead to, or None if it is gone or never was.

    Args:
        events: all of one user whose phase is ``applied``, in the order of transaction and id, as the seals have
            them; each with ``action`` and ``diff``.
        schema: what the tenant's users may hold.

    Raises:
        ReplayError: an event says of a value before it what the events before it do not.
    """
    user: Replayed | None = None
    for event in events:
        action, diff = event["action"], event["diff"] or []
        if not diff and action != _DELETE:
            continue  # it asked for what was so already when it was read; by now the user may be gone
        if action == _CREATE:
            if user is not None:
                raise ReplayError("It is created twice.")
            user = Replayed(after({}, diff, schema), 1)
        elif action == _DELETE:
            # One that was never applied was deleted while it waited: nothing stands before it.
            if user is not None and (left := after(user.doc, diff, schema)) != {"schemas": [schema.urn]}:
                raise ReplayError(f"It is deleted, and {sorted(left)} would stay.")
            user = None
        elif user is None:
            raise ReplayError(f"There is nobody for {action}.")
        else:
            user = Replayed(after(user.doc, diff, schema), user.version + 1)
    return user


def after(doc: Mapping[str, Any], diff: Iterable[Mapping[str, Any]], schema: ResourceSchema) -> Document:
    """Return what a diff makes of a document; ``schemas`` follows from the rest.

    Raises:
        ReplayError: the document is not the one that the diff was made of.
    """
    made = copy.deepcopy(dict(doc))
    made.pop("schemas", None)
    for change in diff:
        if not change.get("redacted"):
            _apply(made, read_path(change["path"]), change)
    urns = [extension.urn for extension in schema.extensions.values()]
    return {"schemas": entra.present_schemas(schema.urn, urns, made), **made}


def _apply(node: Document, steps: list[Step], change: Mapping[str, Any]) -> None:
    """Make one change below ``node``; what it empties goes with it."""
    step, below = steps[0], steps[1:]
    if step.terms:
        _apply_to_element(node, step, below, change)
    elif below:
        inner = node.setdefault(step.name, {})
        _apply(inner, below, change)
        if not inner:
            del node[step.name]
    else:
        _expect(node.get(step.name), change)
        if "after" in change:
            node[step.name] = copy.deepcopy(change["after"])
        else:
            del node[step.name]


def _apply_to_element(node: Document, step: Step, below: list[Step], change: Mapping[str, Any]) -> None:
    elements = node.setdefault(step.name, [])
    found = [place for place, each in enumerate(elements) if all(each.get(name) == key for name, key in step.terms)]
    if len(found) > 1:
        raise ReplayError(f"{change['path']} is more than one.")
    if below:
        if not found:
            raise ReplayError(f"There is no {change['path']}.")
        _apply(elements[found[0]], below, change)
        return
    _expect(elements[found[0]] if found else None, change)
    if found:
        del elements[found[0]]
    if "after" in change:
        elements.append(copy.deepcopy(change["after"]))
    if not elements:
        del node[step.name]


def _expect(value: Any, change: Mapping[str, Any]) -> None:
    if in_any_order(value) != in_any_order(change.get("before")):
        raise ReplayError(f"{change['op']} {change['path']} does not follow from what was there.")


def in_any_order(value: Any) -> Any:
    """Return a value with its lists sorted: the order of values says nothing (RFC 7643 §2.4), and no diff tells it."""
    if isinstance(value, dict):
        return {name: in_any_order(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return sorted((in_any_order(inner) for inner in value), key=lambda inner: json.dumps(inner, sort_keys=True))
    return value


def read_path(path: str) -> list[Step]:
    """Return the parts of a path as a diff has it: `urn:…:User:manager.value`, `emails[type eq "work"].value`.

    Raises:
        ReplayError: it is none.
    """
    steps: list[Step] = []
    rest = path
    if path.startswith("urn:"):  # the colon after it is the last one before any bracket
        urn, _, rest = path.partition("[")[0].rpartition(":")
        steps.append(Step(urn, ()))
        rest = path[len(urn) + 1 :]
    while rest:
        end = min((place for mark in ".[" if (place := rest.find(mark)) >= 0), default=len(rest))
        name, rest = rest[:end], rest[end:]
        terms: list[tuple[str, Any]] = []
        while rest.startswith("[" if not terms else " and "):
            key, _, rest = rest[1 if not terms else 5 :].partition(" eq ")
            value, used = json.JSONDecoder().raw_decode(rest)
            terms.append((key, value))
            rest = rest[used:]
        if terms:
            rest = rest.removeprefix("]")
        steps.append(Step(name, tuple(terms)))
        rest = rest.removeprefix(".")
    if not steps or not all(step.name for step in steps):
        raise ReplayError(f"{path} is no path.")
    return steps
