"""The caught messages: one file each, and an index that is read at once."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email import message_from_bytes
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.parser import BytesHeaderParser
from email.utils import getaddresses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from email.message import Message
    from pathlib import Path


@dataclass(frozen=True)
class CaughtMessage:
    """What the list shows of a message."""

    id: str
    time: str  # when it was caught, ISO 8601 in UTC
    sender: str  # of the envelope
    recipients: tuple[str, ...]  # of the envelope
    subject: str
    message_id: str
    size: int  # bytes

    def matches(self, text: str) -> bool:
        """Tell whether an address or the subject contains the text, in any letter case."""
        wanted = text.casefold()
        return any(wanted in part.casefold() for part in (self.subject, self.sender, *self.recipients))


@dataclass(frozen=True)
class OpenedMessage:
    """What the page of one message shows."""

    headers: tuple[tuple[str, str], ...]
    text: str | None
    html: str | None
    attachments: tuple[tuple[str, str, int], ...]  # name, content type, size in bytes


class Mailbox:
    """Messages in a folder, in the order they came."""

    def __init__(self, folder: Path) -> None:
        self._files = folder / "messages"
        self._index = folder / "index.jsonl"
        self._files.mkdir(parents=True, exist_ok=True)
        self._messages: dict[str, CaughtMessage] = {}
        self._last = 0
        self._load()

    def add(self, content: bytes, sender: str, recipients: Sequence[str]) -> CaughtMessage:
        """Keep a message as it came, bytes and all."""
        self._last += 1
        identifier = f"{self._last:08d}"
        (self._files / f"{identifier}.eml").write_bytes(content)
        return self._enter(identifier, datetime.now(UTC), content, sender, recipients)

    def newest(self, offset: int = 0, limit: int | None = None, text: str = "") -> tuple[int, list[CaughtMessage]]:
        """Return how many messages match the text, and a window of them, newest first."""
        found = [message for message in reversed(self._messages.values()) if not text or message.matches(text)]
        return len(found), found[offset : None if limit is None else offset + limit]

    def raw(self, identifier: str) -> bytes | None:
        """Return the message as it came, or None if there is no such message."""
        if identifier not in self._messages:  # also keeps every other file out of reach
            return None
        return (self._files / f"{identifier}.eml").read_bytes()

    def open(self, identifier: str) -> OpenedMessage | None:
        """Return the parts of a message for showing, or None if there is no such message."""
        content = self.raw(identifier)
        return None if content is None else _opened(message_from_bytes(content))

    def clear(self) -> None:
        """Throw every message away. Their ids are not given again."""
        self._messages.clear()
        self._index.unlink(missing_ok=True)
        shutil.rmtree(self._files)
        self._files.mkdir()

    def _enter(
        self, identifier: str, time: datetime, content: bytes, sender: str, recipients: Sequence[str]
    ) -> CaughtMessage:
        headers = BytesHeaderParser().parsebytes(content)
        message = CaughtMessage(
            id=identifier,
            time=time.isoformat(timespec="milliseconds"),
            sender=sender,
            recipients=tuple(recipients),
            subject=_decoded(headers.get("Subject", "")),
            message_id=str(headers.get("Message-ID", "")).strip(),
            size=len(content),
        )
        with self._index.open("a", encoding="utf-8") as index:
            index.write(json.dumps(asdict(message)) + "\n")
        self._messages[identifier] = message
        return message

    def _load(self) -> None:
        if self._index.exists():
            text = self._index.read_text(encoding="utf-8")
            if text and not text.endswith("\n"):  # cut off by a crash: the next line must begin a line
                with self._index.open("a", encoding="utf-8") as index:
                    index.write("\n")
            for line in text.splitlines():
                if message := _parsed(line):
                    self._messages[message.id] = message
        names = sorted(path.stem for path in self._files.glob("*.eml") if path.stem.isdecimal())
        for name in names:
            if name not in self._messages:  # its line was cut off, so its envelope is lost
                path = self._files / f"{name}.eml"
                content = path.read_bytes()
                headers = BytesHeaderParser().parsebytes(content)
                addresses = [address for _, address in getaddresses([str(headers.get("To", ""))]) if address]
                self._enter(
                    name,
                    datetime.fromtimestamp(path.stat().st_mtime, UTC),
                    content,
                    str(headers.get("From", "")),
                    addresses,
                )
        self._messages = {name: self._messages[name] for name in sorted(self._messages)}
        self._last = int(names[-1]) if names else 0


def _parsed(line: str) -> CaughtMessage | None:
    try:
        fields: dict[str, Any] = json.loads(line)
        return CaughtMessage(**{**fields, "recipients": tuple(fields["recipients"])})
    except (ValueError, TypeError, KeyError):
        return None


def _opened(message: Message[str, str]) -> OpenedMessage:
    text: str | None = None
    html: str | None = None
    attachments = []
    for part in message.walk():
        if part.is_multipart():
            continue
        payload = part.get_payload(decode=True)
        content = payload if isinstance(payload, bytes) else b""
        kind, name = part.get_content_type(), part.get_filename()
        if name is None and kind == "text/plain" and text is None:
            text = _characters(content, part)
        elif name is None and kind == "text/html" and html is None:
            html = _characters(content, part)
        else:
            attachments.append((_decoded(name or "(no name)"), kind, len(content)))
    headers = tuple((name, _decoded(value)) for name, value in message.items())
    return OpenedMessage(headers, text, html, tuple(attachments))


def _characters(content: bytes, part: Message[str, str]) -> str:
    try:
        return content.decode(part.get_content_charset("utf-8"), errors="replace")
    except LookupError:  # a charset nobody knows
        return content.decode("utf-8", errors="replace")


def _decoded(value: object) -> str:
    """Return a header's characters (RFC 2047), or the header as it came where it cannot be decoded."""
    try:
        return " ".join(str(make_header(decode_header(str(value)))).split())
    except (HeaderParseError, LookupError, ValueError):
        return " ".join(str(value).split())
