"""What came back of a request, and what is to be said of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTENT_TYPE = "application/scim+json"
NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, or why nothing did.

    Attributes:
        status: HTTP status; None when no answer came.
        headers: by lower-case name.
        raw: the body.
        failure: why no answer came.
    """

    status: int | None
    headers: Mapping[str, str]
    raw: bytes = b""
    failure: str = ""

    @property
    def body(self) -> Any:
        """The body as JSON, or None if it is none."""
        try:
            return orjson.loads(self.raw)
        except orjson.JSONDecodeError:
            return None

    @property
    def carried_out(self) -> bool:
        """Whether a change was made, be it answered rightly or not."""
        return self.status in (200, 204)


@dataclass(frozen=True, slots=True)
class Finding:
    """One way in which an answer is not what Entra expects."""

    expected: str
    came: str


def json_object(answer: Answer, status: int) -> tuple[dict[str, Any] | None, list[Finding]]:
    """Check what holds for every answer; the object is None when there is no sense in looking into it."""
    if answer.status is None:
        return None, [Finding(f"an answer with status {status}", answer.failure)]
    findings: list[Finding] = []
    media_type = answer.headers.get("content-type", NOTHING).partition(";")[0].strip().lower()
    if media_type != CONTENT_TYPE:
        findings.append(Finding(f"Content-Type {CONTENT_TYPE}", media_type))
    doc = answer.body
    if answer.status != status:
        return None, [
            *findings,
            Finding(f"status {status}", f"{answer.status} {show(doc or answer.raw.decode(errors='replace'))}"),
        ]
    if not isinstance(doc, dict):
        return None, [*findings, Finding("a JSON object", show(answer.raw.decode(errors="replace")))]
    return doc, findings


def objects(value: Any) -> list[dict[str, Any]]:
    """Return the objects of a list; none when it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def meta_of(doc: dict[str, Any]) -> dict[str, Any]:
    """Return the ``meta`` of a resource; empty when it has none."""
    meta = doc.get("meta")
    return meta if isinstance(meta, dict) else {}


def equal(what: str, expected: Any, came: Any) -> list[Finding]:
    """Compare two values as JSON: in Python ``1 == True == 1.0``, on the wire they differ."""
    if json.dumps(expected, sort_keys=True) == json.dumps(came, sort_keys=True):
        return []
    return [Finding(f"{what} = {show(expected)}", show(came))]


def show(value: Any) -> str:
    """Return a value as it is shown in a report, shortened."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:300]}… ({len(text)} characters)"
