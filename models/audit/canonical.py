"""An audit event as the bytes that are hashed: the canonical form, and the leaf that stands for the event.

PostgreSQL writes an event as one line of JSON (`models.audit.lines`); exports are made of the same lines. A line is
taken apart into what stays for ever (the fixed part) and what belongs to a person and may be erased (the personal):

    leaf = SHA-256(0x00 ∥ canonical(fixed) ∥ SHA-256(salt ∥ canonical(personal)))

Canonical is RFC 8785 but for numbers: keys in order, no space between, and numbers in the digits that the database
has, so that no digit is beyond the proof.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable

PLATFORM = UUID(int=0)
"""The stream of events that belong to no tenant."""

PERSONAL_CONTEXT = ("ip", "peer", "user_agent")
_BESIDE = ("actor_label", "diff", "salt", "personal_hash", "erasure_id")
_KEPT_OF_TARGET = frozenset(("type", "id"))
_FREE = ("targets", "context", "diff")  # the fields in which a number may stand that a float bends
_DEEP = frozenset((float, dict, list))


@dataclass(slots=True)
class Leaf:
    """What an event comes to in a seal."""

    stream: str
    """Tenant id as text, or that of `PLATFORM`."""
    xid: int
    id: bytes
    hash: bytes
    erasure_id: str | None
    sound: bool
    """False if what is personal and what stands in for it contradict each other, whatever the hash says."""


def leaf_of(text: str | bytes, **instead: Any) -> Leaf:
    """Return the leaf of an event's line; ``instead`` replaces fields, to ask what the leaf would be then.

    Raises:
        ValueError, KeyError: the text is not an event's line.
    """
    event, dump = _load(text)
    event.update(instead)
    return _leaf(event, dump)


def personal_hash(text: str | bytes) -> bytes:
    """Return what must stand in for the personal part of an event (its line given) once that is erased."""
    event, dump = _load(text)
    salt = bytes.fromhex(event["salt"].replace("-", ""))
    _, personal = _apart(event)
    return sha256(salt + dump(personal)).digest()


def _load(text: str | bytes) -> tuple[dict[str, Any], Callable[[Any], bytes]]:
    """Return an event and what writes it canonically: another, slower pair if it has numbers that a float bends."""
    event = orjson.loads(text)
    for name in _FREE:
        if (value := event[name]) and has_float(value):
            return _load_exactly(text), _dump_exactly
    return event, _dump


def has_float(value: Any) -> bool:
    """Tell whether it is, or somewhere has, a number that a float may bend."""
    if type(value) not in _DEEP or type(value) is float:
        return type(value) is float
    return any(type(item) in _DEEP and has_float(item) for item in (value.values() if type(value) is dict else value))


def _leaf(event: dict[str, Any], dump: Callable[[Any], bytes]) -> Leaf:
    salt, hidden, erasure_id = event["salt"], event["personal_hash"], event["erasure_id"]
    fixed, personal = _apart(event)
    if salt is not None:
        digest = sha256(bytes.fromhex(salt.replace("-", "")) + dump(personal)).digest()
        sound = hidden is None and erasure_id is None
    else:
        digest = bytes.fromhex(hidden or "")
        sound = erasure_id is not None and _is_empty(personal)
    return Leaf(
        stream=fixed["tenant_id"] or str(PLATFORM),
        xid=int(fixed["xid"]),
        id=bytes.fromhex(fixed["id"].replace("-", "")),
        hash=sha256(b"\0" + dump(fixed) + digest).digest(),
        erasure_id=erasure_id,
        sound=sound,
    )


def _apart(event: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take an event apart into its fixed and its personal part; ``event`` becomes the former."""
    personal: dict[str, Any] = {"actor_label": event["actor_label"], "diff": event["diff"]}
    for name in _BESIDE:
        del event[name]
    targets, context = event["targets"], event["context"]
    parts = []
    if are_objects(targets):
        parts = [split_target(target) for target in targets]
        event["targets"] = [fixed for fixed, _ in parts]
    personal["targets"] = [named for _, named in parts]
    known = PERSONAL_CONTEXT if type(context) is dict else ()
    personal["context"] = {key: context.pop(key) for key in known if key in context}
    return event, personal


def are_objects(value: Any) -> bool:
    """Tell whether it is a list of objects; we write no other targets, and what somebody put there stays whole."""
    return type(value) is list and all(type(item) is dict for item in value)


def split_target(target: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what stays of a target for ever, and what is personal."""
    return (
        {key: target[key] for key in target if key in _KEPT_OF_TARGET},
        {key: target[key] for key in target if key not in _KEPT_OF_TARGET},
    )


def _is_empty(personal: dict[str, Any]) -> bool:
    return (
        not (personal["actor_label"] is not None or personal["diff"] is not None or any(personal["targets"]))
        and not personal["context"]
    )


def _dump(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


class _Number(str):
    """A number in the digits that it was read in."""

    __slots__ = ()


def _load_exactly(text: str | bytes) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(text, parse_int=_Number, parse_float=_Number)
    return loaded


def _dump_exactly(value: Any) -> bytes:
    return _written(value).encode()


def _written(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{_written(key)}:{_written(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    return str(value) if isinstance(value, _Number) else json.dumps(value, ensure_ascii=False)
