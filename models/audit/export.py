"""Exporting audit events to a file, with a manifest that says what is in it and what proves it.

As JSON lines, an export is what the seals were made over: `deploy/verify_audit.py` verifies it, with the manifest,
on any machine. CSV and OCSF are for reading and for SIEMs; their manifest names the seals only.
"""

from __future__ import annotations

import csv
import io
from base64 import b64encode
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import orjson

from models.audit.canonical import PLATFORM
from models.audit.filter_sql import where
from models.audit.lines import each_block, lines
from models.audit.note import read_seal
from models.audit.ocsf import VERSION, as_ocsf
from models.audit.record import Event, record
from models.audit.seal import COLUMNS
from models.audit.spreadsheet import HEADS, row

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from models.audit.record import Actor
    from models.audit.search import Search
    from models.db import Connection

FORMATS: Final = ("csv", "jsonl", "ocsf")
ACTION: Final = "audit.log.export"
WIDEST: Final = timedelta(days=3660)
# Where things stand in a line: {"id":"…36…","xid":"…","tenant_id":"…36…" or, of the installation, null.
# The head is what these take at the most: the digits of a transaction id, and the tenant.
_ID, _HEAD, _TENANT = slice(7, 43), slice(52, 52 + 20 + 15 + 36), 14
_QUOTE = ord('"')
_ORDER = "ORDER BY e.occurred_at, e.id"
_SEALS = f"""
SELECT {", ".join(f"s.{name}" for name in COLUMNS)}, l.leaves
  FROM audit_seal AS s JOIN audit_leaves AS l USING (stream, seq)
 WHERE s.stream = $1 AND s.kind = 'events' AND s.to_xid > $2 AND s.from_xid <= $3 ORDER BY s.seq
"""  # noqa: S608  constants


@dataclass(slots=True)
class Exported:
    """How far an export is, and at its end what is in it."""

    rows: int = 0
    size: int = 0
    """Bytes."""
    first_id: str | None = None
    last_id: str | None = None
    sha256: str = ""
    reach: dict[bytes, list[int]] = field(default_factory=dict)
    """By tenant id, empty for the installation's, the least and the greatest transaction id."""


async def export_events(
    connection: Connection,
    search: Search,
    *,
    tenant_id: UUID | None,
    form: str,
    file: BinaryIO,
    done: Exported | None = None,
) -> Exported:
    """Write what a search finds to ``file``, oldest first.

    Args:
        connection: outside a transaction.
        search: what is asked; its end is fixed, so that what comes later is not in it.
        tenant_id: whose events may be seen; None for all.
        form: one of `FORMATS`.
        file: opened for writing bytes.
        done: is kept up while it goes on, for whoever watches.
    """
    done = done or Exported()
    digest = sha256()
    made = where(search, tenant_id)
    write = _WRITERS[form]

    def put(data: bytes) -> None:
        digest.update(data)
        file.write(data)
        done.size += len(data)

    def take(block: bytes) -> None:
        _note(done, block)
        put(block if write is None else b"".join(map(write, block[:-1].split(b"\n"))))

    if form == "csv":
        put(_csv(HEADS))
    async with connection.transaction(readonly=True):
        await connection.execute("SET LOCAL statement_timeout = 0")
        await each_block(connection, lines(str(made), _ORDER), *made.values, work=take)
    done.sha256 = digest.hexdigest()
    return done


def _note(done: Exported, block: bytes) -> None:
    """Count the lines of a block, and note which transactions of which streams are in it.

    A line begins with id, transaction and tenant, as `models.audit.lines` has them.
    """
    heads, start, size = set(), 0, len(block)
    while start < size:
        last = start
        heads.add(block[start + _HEAD.start : start + _HEAD.stop])
        start = block.index(b"\n", start) + 1
        done.rows += 1
    if done.first_id is None:
        done.first_id = block[_ID].decode()
    done.last_id = block[last + _ID.start : last + _ID.stop].decode()
    reach = done.reach
    for head in heads:  # a transaction writes many events, mostly of one tenant
        digits, _, rest = head.partition(b'"')
        xid, stream = int(digits), rest[_TENANT : _TENANT + 36] if rest[_TENANT - 1] == _QUOTE else b""
        seen = reach.get(stream)
        if seen is None:
            reach[stream] = [xid, xid]
        elif xid < seen[0]:
            seen[0] = xid
        elif xid > seen[1]:
            seen[1] = xid


def _ocsf(text: bytes) -> bytes:
    return orjson.dumps(as_ocsf(orjson.loads(text)), option=orjson.OPT_APPEND_NEWLINE)


def _as_csv(text: bytes) -> bytes:
    return _csv(row(orjson.loads(text)))


def _csv(cells: Any) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue().encode()


_WRITERS: Final[dict[str, Callable[[bytes], bytes] | None]] = {"csv": _as_csv, "jsonl": None, "ocsf": _ocsf}


async def write_manifest(
    connection: Connection, done: Exported, *, text: str, search: Search, form: str, file: BinaryIO
) -> None:
    """Write what goes with an export: what was asked, what is in it, and the seals over it.

    The seals of an export as JSON lines come with their leaves, so that each line can be held to its place.
    """
    keys = await connection.fetch("SELECT verifier FROM audit_key ORDER BY created_at")
    about = {
        "format": form,
        "schema": {"jsonl": "usher audit line v1", "ocsf": f"OCSF {VERSION}", "csv": "usher audit csv v1"}[form],
        "query": text,
        "from": search.since.isoformat(),
        "to": search.until.isoformat(),
        "made_at": datetime.now(UTC).isoformat(),
        "rows": done.rows,
        "size": done.size,
        "first_id": done.first_id,
        "last_id": done.last_id,
        "sha256": done.sha256,
        "keys": [one["verifier"] for one in keys],
    }
    file.write(orjson.dumps(about)[:-1] + b',"seals":[')
    first = True
    for tenant, (low, high) in sorted(done.reach.items()):
        stream = tenant.decode() or str(PLATFORM)
        async with connection.transaction(readonly=True):
            async for each in connection.cursor(_SEALS, UUID(stream), low, high, prefetch=10):
                seal = read_seal(each)
                entry: dict[str, Any] = {"stream": stream, "seq": seal.seq, "note": seal.note()}
                if form == "jsonl":
                    entry["leaves"] = b64encode(each["leaves"]).decode()
                file.write((b"\n" if first else b",\n") + orjson.dumps(entry))
                first = False
    file.write(b"\n]}\n")


async def tell(
    connection: Connection,
    export_id: UUID,
    *,
    text: str,
    form: str,
    rows: int,
    tenant_id: UUID | None,
    actor: Actor,
    correlation_id: UUID,
) -> None:
    """Audit an export that is done; what was searched for may name somebody, so it stands where that can be erased."""
    target = {"type": "Export", "id": str(export_id), "label": text}
    event = Event(
        action=ACTION,
        phase="applied",
        actor=actor,
        correlation_id=correlation_id,
        tenant_id=tenant_id,
        targets=[target],
        context={"format": form, "events": rows},
    )
    await record(connection, [event])
