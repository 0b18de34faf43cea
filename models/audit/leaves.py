"""Leaves of events straight from the table, in a quarter of the time that their lines take.

`models.audit.canonical` says what a leaf is. Here PostgreSQL writes the columns in canonical order as it reads them,
and only `context`, `targets` and `diff` are looked into: a column at a time, over all events that came together, so
that what is done for each event is little more than to hash it. Whatever is out of the ordinary (an erased event, a
number that a float bends) goes the way of `leaf_of`; a test holds the two ways to each other.
"""

from __future__ import annotations

import re
from binascii import a2b_hex
from functools import lru_cache
from hashlib import sha256
from secrets import token_hex
from typing import Any, TypeAlias, cast
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
_NO_SALT = b"0" * 32  # keeps the place of one that is gone
# Each column of targets that begins with \1: where it is one target as we write them its four values as they stand,
# with nothing in them that is escaped; else four times nothing.
_VALUE = rb'("[^"\\]*"|null)'
_TARGETS = re.compile(
    rb'\x01(?:\[\{"id": %b, "type": %b, "label": %b, "external_id": %b\}\](?=\x01|\Z)|[^\x01]*)' % ((_VALUE,) * 4)
)
_CUT = token_hex()
_BETWEEN_DUMPED = f',"{_CUT}",'.encode()
_MOST_CONTEXTS = 4096  # where requests come from and which way they took, again and again

_Parts: TypeAlias = tuple[bytes, bytes]  # of a column, canonical: the fixed and the personal
_Read: TypeAlias = tuple[bytes, bytes, bytes, bool, str | None]


def rows_of(condition: str) -> str:
    """Return the statement for what leaves are made of (`models.audit.lines.each_block` gives them to `read`).

    Args:
        condition: SQL over `audit_event AS e`.
    """
    return f"SELECT {', '.join(_COLUMNS)} FROM audit_event AS e WHERE {condition}"  # noqa: S608  statements of ours


def read(block: bytes) -> list[_Read]:
    """Return of each event what seals want of it: its place (`place_of`), id, leaf, whether it is sound, its erasure.

    Args:
        block: rows of `rows_of`, each ending with a line feed.
    """
    parts = block.replace(b"\n", _BETWEEN).split(_BETWEEN)
    heads, contexts, middles, targets, tails, labels, diffs, salts, hidden, erasures = (
        parts[place : -1 : len(_COLUMNS)] for place in range(len(_COLUMNS))
    )
    odd = {place for place, salt in enumerate(salts) if not salt} if b"" in salts else set()
    for beside in (hidden, erasures):
        if any(beside):
            odd.update(place for place, value in enumerate(beside) if value)
    of_contexts = _each(list(map(_context, contexts)), odd)
    of_targets = _each(_each_targets(targets), odd)
    changes = _each_diff(diffs, odd)
    salt = a2b_hex(b"".join([one or _NO_SALT for one in salts]).replace(b"-", b""))
    ids = a2b_hex(b"".join([middle[_ID] for middle in middles]).replace(b"-", b""))
    personal = [
        b"".join((salt[at : at + 16], b"{", label, b',"context":', context[1], b',"diff":', diff, named[1]))
        for at, label, context, diff, named in zip(
            range(0, len(salt), 16), labels, of_contexts, changes, of_targets, strict=True
        )
    ]
    fixed = [
        b"".join((b"\0", head, context[0], middle, named[0], tail, sha256(beside).digest()))
        for head, context, middle, named, tail, beside in zip(
            heads, of_contexts, middles, of_targets, tails, personal, strict=True
        )
    ]
    found: list[_Read] = [
        (tail, ids[at : at + 16], sha256(text).digest(), True, None)
        for tail, at, text in zip(tails, range(0, len(ids), 16), fixed, strict=True)
    ]
    if odd:
        rows = block.split(b"\n")
        for place in odd:
            leaf = leaf_of(line_of(rows[place]))
            found[place] = tails[place], leaf.id, leaf.hash, leaf.sound, leaf.erasure_id
    return found


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
    return b"".join((head, context or b"null", middle, targets or b"null", tail[:-1], rest))


@lru_cache(_MOST_CONTEXTS)
def _context(text: bytes) -> _Parts | None:
    if not text or text == b"null":
        return b"null", b"{}"
    if text[0] != _BRACE or has_float(fixed := orjson.loads(text)):
        return None
    personal = {key: fixed.pop(key) for key in PERSONAL_CONTEXT if key in fixed}
    return _dump(fixed), _dump(personal)


def _each(parts: list[_Parts | None], odd: set[int]) -> list[_Parts]:
    """Return the parts of a column; ``odd`` takes the places of those that it has none of."""
    if None in parts:
        odd.update(place for place, one in enumerate(parts) if one is None)
    return [one or (b"", b"") for one in parts] if odd else cast("list[_Parts]", parts)


def _each_targets(texts: list[bytes]) -> list[_Parts | None]:
    return [
        (b'[{"id":%b,"type":%b}]' % (name, kind), b',"targets":[{"external_id":%b,"label":%b}]}' % (outside, label))
        if name
        else _targets(text)
        for text, (name, kind, label, outside) in zip(texts, _TARGETS.findall(b"\1" + b"\1".join(texts)), strict=True)
    ]


def _targets(text: bytes) -> _Parts | None:
    targets = orjson.loads(text or b"null")
    if not are_objects(targets) or has_float(targets):
        return None
    parts = [split_target(target) for target in targets]
    return _dump([fixed for fixed, _ in parts]), b',"targets":%b}' % _dump([personal for _, personal in parts])


def _each_diff(texts: list[bytes], odd: set[int]) -> list[bytes]:
    text = b"[ " + b", ".join([text or b"null" for text in texts]) + b"]"
    changes = orjson.loads(text)
    if b" 0" in text.translate(_NUMBERS):
        bent = {place for place, one in enumerate(changes) if has_float(one)}
        odd |= bent
        changes = [None if place in bent else one for place, one in enumerate(changes)]
    return _dump_each(changes)


def _dump(value: Any) -> bytes:
    # A text of orjson's own takes 4 KB for as long as it lives, however short it is; a copy of it does not.
    return bytes(memoryview(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)))


def _dump_each(values: list[Any]) -> list[bytes]:
    """Return each value as `_dump` does, by one text that is cut where a word stands that nobody can know."""
    if not values:
        return []
    words: list[Any] = [_CUT] * (2 * len(values) - 1)
    words[::2] = values
    return orjson.dumps(words, option=orjson.OPT_SORT_KEYS)[1:-1].split(_BETWEEN_DUMPED)
