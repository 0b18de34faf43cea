"""What verification reports: findings by class, and what could not be looked at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uuid import UUID

CLASSES = {
    "edited": "A value differs from the one that was sealed.",
    "deleted": "An event that was sealed is gone, and no retention accounts for it.",
    "inserted": "An event stands where everything was sealed, and no seal has it.",
    "reordered": "An event was moved to another place in the order.",
    "truncated": "The last seals of a stream are gone: an anchor outside the database knows a later one.",
    "seal_dropped": "A seal is missing from the chain.",
    "re_signed": "A seal bears a signature that none of the trusted keys made.",
    "rolled_back": "The database is an old copy: an anchor knows a later state, or another one.",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One trace of tampering."""

    kind: str
    """One of `CLASSES`."""
    stream: UUID
    seq: int | None
    """The seal."""
    event_id: str | None
    """The row, where it could be narrowed to one."""
    detail: str

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "class": self.kind,
            "stream": str(self.stream),
            "seal": self.seq,
            "event": self.event_id,
            "detail": self.detail,
        }


@dataclass(slots=True)
class Report:
    """What a verification found."""

    findings: list[Finding] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)
    """Sentences about what could not be verified."""
    streams: int = 0
    seals: int = 0
    events: int = 0
    erased: int = 0
    removed: int = 0
    """Events that a tombstone accounts for."""
    anchors: int = 0
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 clean, 2 tampering found, 3 incomplete."""
        if self.findings:
            return 2
        return 3 if self.incomplete else 0

    @property
    def outcome(self) -> str:
        """In a word."""
        return {0: "clean", 2: "tampering", 3: "incomplete"}[self.exit_code]

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "outcome": self.outcome,
            "streams": self.streams,
            "seals": self.seals,
            "events": self.events,
            "erased": self.erased,
            "removed": self.removed,
            "anchors": self.anchors,
            "seconds": round(self.seconds, 3),
            "findings": [finding.as_dict() for finding in self.findings],
            "incomplete": self.incomplete,
        }
