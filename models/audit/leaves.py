"""Leaves of events straight from the table, in a third of the time that their lines take.

`models.audit.canonical` says what a leaf is. Here PostgreSQL writes the columns in canonical order as it reads them,
and only `context`, `targets` and `diff` are looked into. Whatever is out of the ordinary (an erased event, a number
that a float bends) goes the way of `leaf_of`; a test holds the two ways to each other.
"""

from __future__ import annotations

from binascii import a2b_hex
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, TypeAlias
from uuid import UUID

import orjson

from models.audit.canonical import PERSONAL_CONTEXT, PLATFORM, are_objects, has_float, leaf_of, split_target
from models.audit.lines import written

_HEAD = ("action", "actor_id", "actor_type", "changed")
_MIDDLE = (
    *("correlation_id", "id", "job_id", "occurred_at", "outcome", "phase", "reason", "schema_version", "severity"),
    *("target_id", "target_type"),
)
_TAIL = ("tenant_id", "xid")
# What stands between them in the canonical form is looked into here, as is what follows.
_COLUMNS = (
    f"""'{{' || {written(_HEAD)} || ',"context":'""",
    "e.context",
    f"""',' || {written(_MIDDLE)} || ',"targets":'""",
    "e.targets",
    f"',' || {written(_TAIL)} || '}}'",
    written(("actor_label",)),
    "e.diff",
    "e.salt",
    "encode(e.personal_hash, 'hex')",
    "e.erasure_id",
)
_BETWEEN = b"\1"  # which JSON never has in the raw
# Where ids stand: in the middle {,"correlation_id":"…36…","id":"…36…"}, in the tail {,"tenant_id":"…36…" or null.
_ID = slice(63, 99)
_TENANT = slice(14, 50)
_QUOTE, _BRACE = b'"{'
# Every number then begins with a 0 behind a space, and little else does.
_NUMBERS = bytes.maketrans(b"123456789-[", b"0000000000 ")
_ONE_TARGET: Final = [b"[{", b": ", b", ", b": ", b", ", b": ", b", ", b": ", b"}]"]
_ITS_NAMES: Final = [b"id", b"type", b"label", b"external_id"]
_MOST_CONTEXTS = 4096  # where requests come from and which way they took, again and again

_Parts: TypeAlias = tuple[bytes, bytes]  # of a column, canonical: the fixed and the personal


def rows_of(condition: str) -> str:
    """Return the statement for what leaves are made of (`models.audit.lines.each_line` gives them to `read`).

    Args:
        condition: SQL over `audit_event AS e`.
    """
    return f"SELECT {', '.join(_COLUMNS)} FROM audit_event AS e WHERE {condition}"  # noqa: S608  statements of ours


def read(row: bytes) -> tuple[bytes, bytes, bytes, bool, str | None]:
    """Return of an event what seals want of it: its place (`place_of`), id, leaf, whether it is sound, its erasure."""
    head, context, middle, targets, tail, label, diff, salt, hidden, erasure_id = row.split(_BETWEEN)
    of_context, of_targets, changes = _context(context), _targets(targets), _diff(diff)
    if hidden or erasure_id or not salt or of_context is None or of_targets is None or changes is None:
        leaf = leaf_of(line_of(row))
        return tail, leaf.id, leaf.hash, leaf.sound, leaf.erasure_id
    personal = b'%b{%b,"context":%b,"diff":%b,"targets":%b}' % (
        *(a2b_hex(salt.replace(b"-", b"")), label, of_context[1], changes, of_targets[1]),
    )
    fixed = b"\0%b%b%b%b%b%b" % (head, of_context[0], middle, of_targets[0], tail, sha256(personal).digest())
    return tail, a2b_hex(middle[_ID].replace(b"-", b"")), sha256(fixed).digest(), True, None


def place_of(tail: bytes) -> tuple[UUID, int]:
    """Return the stream and the transaction that a place means; many events have it in common."""
    stream = UUID(tail[_TENANT].decode()) if tail[_TENANT.start - 1] == _QUOTE else PLATFORM
    return stream, int(tail[:-2].rpartition(b'"')[2])


def line_of(row: bytes) -> bytes:
    """Return the event as a line for `leaf_of`."""
    head, context, middle, targets, tail, label, diff, salt, hidden, erasure_id = row.split(_BETWEEN)
    beside = {"salt": salt, "personal_hash": hidden, "erasure_id": erasure_id}
    words = orjson.dumps({name: value.decode() or None for name, value in beside.items()})
    rest = b',%b,"diff":%b,%b' % (label, diff or b"null", words[1:])
    return b"".join((head, context or b"null", middle, targets, tail[:-1], rest))


@lru_cache(_MOST_CONTEXTS)
def _context(text: bytes) -> _Parts | None:
    if not text or text == b"null":
        return b"null", b"{}"
    if text[0] != _BRACE or has_float(fixed := orjson.loads(text)):
        return None
    personal = {key: fixed.pop(key) for key in PERSONAL_CONTEXT if key in fixed}
    return _dump(fixed), _dump(personal)


def _targets(text: bytes) -> _Parts | None:
    words = text.split(b'"')
    if words[::2] == _ONE_TARGET and words[1::4] == _ITS_NAMES and b"\\" not in text:  # so each word is one whole
        return b'[{"id":"%b","type":"%b"}]' % (words[3], words[7]), b'[{"external_id":"%b","label":"%b"}]' % (
            *(words[15], words[11]),
        )
    targets = _loaded(text)
    if not are_objects(targets):
        return None
    parts = [split_target(target) for target in targets]
    return _dump([fixed for fixed, _ in parts]), _dump([personal for _, personal in parts])


def _diff(text: bytes) -> bytes | None:
    if not text or text == b"null":
        return b"null"
    changes = _loaded(text)
    return None if changes is None else _dump(changes)


def _loaded(text: bytes) -> Any:
    """Return a column that is a list, or None if it is none, or has numbers that a float bends."""
    if text[:1] != b"[":
        return None
    value = orjson.loads(text)
    return None if b" 0" in text.translate(_NUMBERS) and has_float(value) else value


def _dump(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
