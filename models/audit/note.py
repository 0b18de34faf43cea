"""What a seal says, as the text that is signed: a C2SP signed note; and the anchors made of such notes."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING
from uuid import UUID

from models.errors import UsageError

if TYPE_CHECKING:
    import asyncpg

_TITLE = "usher audit seal v1"
_FIELDS = ("stream", "seq", "kind", "xid", "count", "root", "previous", "detail", "sealed")
_DASH = "\N{EM DASH} "
ZEROS = bytes(32)


def _b64(value: bytes) -> str:
    return b64encode(value).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """One seal; see `models.tables.audit_proof.AuditSeal` for what its fields mean."""

    stream: UUID
    seq: int
    kind: str
    from_xid: int
    to_xid: int
    count: int
    root: bytes
    previous: bytes
    detail: str | None
    sealed_at: datetime
    key_id: str = ""
    signature: bytes = b""
    detail_hash: str | None = None
    """As a note has it, where the detail itself is not at hand."""

    def body(self) -> bytes:
        """Return the text that is signed."""
        values = (
            str(self.stream),
            str(self.seq),
            self.kind,
            f"{self.from_xid} {self.to_xid}",
            str(self.count),
            _b64(self.root),
            _b64(self.previous),
            self.detail_hash or ("-" if self.detail is None else _b64(sha256(self.detail.encode()).digest())),
            self.sealed_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        )
        return "".join(
            [f"{_TITLE}\n", *(f"{name} {value}\n" for name, value in zip(_FIELDS, values, strict=True))]
        ).encode()

    def hash(self) -> bytes:
        """Return what the stream's next seal names as its previous one."""
        return sha256(self.body()).digest()

    def note(self) -> str:
        """Return the seal as a signed note."""
        name, _, digest = self.key_id.rpartition("+")
        return f"{self.body().decode()}\n{_DASH}{name} {_b64(bytes.fromhex(digest) + self.signature)}\n"


def read_seal(row: asyncpg.Record) -> Seal:
    """Return the seal of a row of `audit_seal`."""
    return Seal(**{name: row[name] for name in Seal.__dataclass_fields__ if name != "detail_hash"})


def read_notes(text: str) -> list[Seal]:
    """Read signed notes that stand one after the other with an empty line between; `detail` is not in them.

    Raises:
        UsageError: a note is not a seal's.
    """
    seals = []
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.startswith(_DASH):
            if line:
                lines.append(line)
            continue
        try:
            seals.append(_read_note(lines, line))
        except (ValueError, binascii.Error) as error:
            raise UsageError(f"The anchors are damaged: line {number} ends a note that is no seal's.") from error
        lines = []
    if lines:
        raise UsageError("The anchors are damaged: the last note has no signature.")
    return seals


def _read_note(lines: list[str], signed: str) -> Seal:
    if len(lines) != len(_FIELDS) + 1 or lines[0] != _TITLE:
        raise ValueError(lines)
    values = {}
    for name, line in zip(_FIELDS, lines[1:], strict=True):
        found, _, values[name] = line.partition(" ")
        if found != name:
            raise ValueError(line)
    first, _, last = values["xid"].partition(" ")
    name, _, signature = signed.removeprefix(_DASH).rpartition(" ")
    raw = b64decode(signature, validate=True)
    return Seal(
        stream=UUID(values["stream"]),
        seq=int(values["seq"]),
        kind=values["kind"],
        from_xid=int(first),
        to_xid=int(last),
        count=int(values["count"]),
        root=b64decode(values["root"], validate=True),
        previous=b64decode(values["previous"], validate=True),
        detail=None,
        detail_hash=values["detail"],
        sealed_at=datetime.strptime(values["sealed"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC),
        key_id=f"{name}+{raw[:4].hex()}",
        signature=raw[4:],
    )
