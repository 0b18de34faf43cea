"""What the audit log keeps of a value, and what of it leaves: a registry by attribute path.

    never   is not kept at all: that it was changed is all that the log says
    hash    leaves as a keyed hash: equal values look equal, no value can be read
    mask    leaves with its ends showing: `j***@example.com`
    full    leaves as it is

The log itself, which a tenant reads, holds everything but `never` in full. Streams and whatever else goes elsewhere
take `leaving`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

LEVELS: Final = ("never", "hash", "mask", "full")

REGISTRY: Final[dict[str, str]] = {
    "addresses": "mask",
    "displayname": "mask",
    "email": "mask",
    "emails": "mask",
    "employeenumber": "hash",
    "externalid": "hash",
    "ims": "mask",
    "manager": "mask",
    "name": "mask",
    "nickname": "mask",
    "password": "never",
    "phonenumbers": "mask",
    "photos": "mask",
    "profileurl": "mask",
    "username": "mask",
    "x509certificates": "hash",
}
"""By the first part of the path, in small letters, wherever it comes from; what is not here leaves in full."""

# Names of secrets in attributes that nobody foresaw, as of a tenant's own schema; at any depth.
_SECRET = re.compile(
    r"pass(word|wd|phrase|code)?|pwd|secret\w*|\w*(password|passphrase|secret|apikey|accesstoken|privatekey)"
)
_URN = re.compile(r"^urn:[^\[]*:")
# A value in the filter of a path: emails[type eq "work" and value eq "ana@example.com"]. The type names nobody.
_NAMED = re.compile(r'(\btype eq )?"(?:[^"\\]|\\.)*"')
_HIDDEN: Final = "***"
# What people typed may name somebody: searches of exports and of bulk operations, reasons that were given.
_FREE_TEXT: Final = ("note", "query")


@lru_cache(maxsize=4096)
def _parts(path: str) -> tuple[str, ...]:
    """Return the names along a path in small letters, without its schema and without filters."""
    plain = re.sub(r"\[.*\]", "", _URN.sub("", path.lower()))
    return tuple(part for part in plain.split(".") if part)


@lru_cache(maxsize=4096)
def level(path: str) -> str:
    """Return which of `LEVELS` an attribute has, by its path in any spelling."""
    parts = _parts(path)
    if any(_SECRET.fullmatch(part.replace("_", "").replace("-", "")) for part in parts):
        return "never"
    return REGISTRY.get(parts[0], "full") if parts else "full"


def keep(diff: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a diff as it may be written: of what is `never` kept only the path, and `redacted`.

    A diff without secrets, as every create's should be, is returned as it is and costs microseconds.
    """
    if not any(map(_has_secret, diff)):
        return diff
    kept = []
    for item in diff:
        path = str(item.get("path", ""))
        if level(path) == "never":
            kept.append({"op": item.get("op"), "path": path, "redacted": True})
        else:
            kept.append({name: _without_secrets(value) for name, value in item.items()})
    return kept


def _has_secret(item: Mapping[str, Any]) -> bool:
    return (
        level(item.get("path", "")) == "never" or _holds_secret(item.get("before")) or _holds_secret(item.get("after"))
    )


def _holds_secret(value: Any) -> bool:
    # Every value of every create comes by here, and nearly all are strings: those are passed without a further call.
    if value.__class__ is str:
        return False
    if isinstance(value, dict):
        for name, inner in value.items():
            if level(name) == "never" or (inner.__class__ is not str and _holds_secret(inner)):
                return True
        return False
    return isinstance(value, list) and any(map(_holds_secret, value))


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _HIDDEN if level(str(name)) == "never" else _without_secrets(inner) for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_without_secrets(inner) for inner in value]
    return value


def leaving(event: Mapping[str, Any], key: bytes, overrides: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return an event as it may leave: values of its diff and labels of people masked, hashed or in full.

    Args:
        event: as `models.audit.query` gives it.
        key: of the hashes; another key makes other hashes of the same values.
        overrides: levels by the first part of a path, in small letters, that win over `REGISTRY`; `never` stays.
    """
    wanted = {**REGISTRY, **(overrides or {})}
    left = dict(event)
    if event.get("diff"):
        left["diff"] = [_leaving_item(item, key, wanted) for item in event["diff"]]
    if event.get("changed"):
        left["changed"] = [_leaving_path(path, _chosen(path, wanted)) for path in event["changed"]]
    if event.get("context"):
        left["context"] = {
            name: _HIDDEN if name in _FREE_TEXT and value else value for name, value in event["context"].items()
        }
    left["targets"] = [_leaving_target(target, key, wanted) for target in event.get("targets") or ()]
    if event.get("actor_label") is not None and event.get("actor_type") == "person":
        left["actor_label"] = _as(wanted.get("username", "mask"), event["actor_label"], key)
    return left


def _chosen(path: str, wanted: Mapping[str, str]) -> str:
    parts = _parts(path)
    return "never" if level(path) == "never" else wanted.get(parts[0], "full") if parts else "full"


def _leaving_path(path: str, chosen: str) -> str:
    return path if chosen == "full" else _NAMED.sub(lambda found: found[0] if found[1] else f'"{_HIDDEN}"', path)


def _leaving_item(item: Mapping[str, Any], key: bytes, wanted: Mapping[str, str]) -> dict[str, Any]:
    path = str(item.get("path", ""))
    chosen = _chosen(path, wanted)
    left = {"op": item.get("op"), "path": _leaving_path(path, chosen)}
    if chosen == "never":
        return {**left, "redacted": True}
    values = {side: _as(chosen, item[side], key) for side in ("before", "after") if side in item}
    marked = {"redacted": True} if chosen != "full" or item.get("redacted") else {}
    return {**left, **values, **marked}


_PEOPLE: Final = {"User": "username", "Invitation": "username", "Address": "emails"}
"""Targets whose label names a person, with the attribute by whose level it leaves."""


def _leaving_target(target: Mapping[str, Any], key: bytes, wanted: Mapping[str, str]) -> dict[str, Any]:
    left = dict(target)
    if left.get("type") == "Export" and left.get("label"):
        left["label"] = _HIDDEN
    attribute = _PEOPLE.get(left.get("type", ""))
    if attribute is None:
        return left
    for name, its in (("label", attribute), ("external_id", "externalid")):
        if left.get(name) is not None:
            left[name] = _as(wanted.get(its, "full"), left[name], key)
    return left


def _as(chosen: str, value: Any, key: bytes) -> Any:
    if chosen == "full" or value is None or isinstance(value, bool):
        return value
    if isinstance(value, dict):
        return {name: _as(chosen, inner, key) for name, inner in value.items()}
    if isinstance(value, list):
        return [_as(chosen, inner, key) for inner in value]
    return hashed(str(value), key) if chosen == "hash" else mask(str(value))


def mask(text: str) -> str:
    """Return a text of which only the first letter shows, and of an e-mail address the domain."""
    local, at, domain = text.rpartition("@")
    if at and local:
        return f"{local[0]}{_HIDDEN}@{domain}"
    return f"{text[0]}{_HIDDEN}" if len(text) > 1 else _HIDDEN


def hashed(text: str, key: bytes) -> str:
    """Return a keyed hash: the same for the same text, and no use for finding out which."""
    return "hash:" + hmac.digest(key, b"usher audit value:" + text.encode(errors="replace"), hashlib.sha256).hex()[:24]
