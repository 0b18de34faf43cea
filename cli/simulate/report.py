"""What a run found: counts, latencies and every deviation, for people and for machines."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from cli.simulate.findings import Finding

_PRINTED_DEVIATIONS = 50


@dataclass(frozen=True, slots=True)
class Deviation:
    """One answer that is not what Entra expects."""

    request: str
    expected: str
    came: str


@dataclass(slots=True)
class Report:
    """What happened so far.

    Attributes:
        created: users that this run created.
        active: those of them that are active.
        invitable: those of them that are active and have an e-mail address, so that an invitation is due.
        found: users that were there already, which is what a restart of Entra's job sees.
        retries: requests repeated after 429 or 503.
        happened: what became of users and groups in the cycles after the first, by kind.
        latencies: seconds of each request, by kind.
    """

    url: str
    seed: int
    dialect: str
    users: int
    concurrency: int
    groups: int = 0
    created: int = 0
    active: int = 0
    invitable: int = 0
    found: int = 0
    retries: int = 0
    seconds: float = 0.0
    shapes: Counter[str] = field(default_factory=Counter)
    happened: Counter[str] = field(default_factory=Counter)
    latencies: dict[str, list[float]] = field(default_factory=dict)
    deviations: list[Deviation] = field(default_factory=list)

    def took(self, kind: str, seconds: float) -> None:
        """Count one request of a kind and the time until its whole answer was there."""
        self.latencies.setdefault(kind, []).append(seconds)

    def deviates(self, request: str, findings: Iterable[Finding]) -> None:
        """Keep every finding about the answer to one request."""
        self.deviations += [Deviation(request, finding.expected, finding.came) for finding in findings]

    def as_json(self) -> dict[str, Any]:
        """Return the whole report as JSON values; times in milliseconds, ``seconds`` in seconds."""
        return {
            "url": self.url,
            "seed": self.seed,
            "dialect": self.dialect,
            "users": self.users,
            "groups": self.groups,
            "concurrency": self.concurrency,
            "seconds": round(self.seconds, 3),
            "created": self.created,
            "active": self.active,
            "invitable": self.invitable,
            "found": self.found,
            "retries": self.retries,
            "shapes": dict(self.shapes),
            "happened": dict(sorted(self.happened.items())),
            "requests": {kind: _summary(seconds) for kind, seconds in self.latencies.items()},
            "deviations": [
                {"request": item.request, "expected": item.expected, "came": item.came} for item in self.deviations
            ],
        }

    def show(self, console: Console) -> None:
        """Print the report for a person."""
        table = Table(title=f"{self.url} · dialect {self.dialect} · seed {self.seed}")
        table.add_column("request")
        for name in ("count", "p50 ms", "p95 ms", "p99 ms", "max ms"):
            table.add_column(name, justify="right")
        for kind, seconds in self.latencies.items():
            row = _summary(seconds)
            times = [f"{row[name]:.1f}" for name in ("p50_ms", "p95_ms", "p99_ms", "max_ms")]
            table.add_row(kind, str(row["count"]), *times)
        console.print(table)
        console.print(
            f"{self.created} users created: {self.active} of them active, {self.invitable} active with an e-mail"
            f" address (one invitation each). {self.found} were there before. {self.seconds:.1f} s,"
            f" {self.retries} requests repeated after 429 or 503.",
            highlight=False,
        )
        if self.happened:
            events = ", ".join(f"{what} {number}" for what, number in sorted(self.happened.items()))
            console.print(f"After that: {events}.", highlight=False)
        if not self.deviations:
            console.print("[green]No deviation.[/green]")
            return
        console.print(f"[red]{len(self.deviations)} deviations:[/red]", highlight=False)
        for item in self.deviations[:_PRINTED_DEVIATIONS]:
            console.print(f"[bold]{escape(item.request)}[/bold]", highlight=False)
            console.print(f"  expected {escape(item.expected)}", highlight=False)
            console.print(f"  came     {escape(item.came)}", highlight=False)
        if (more := len(self.deviations) - _PRINTED_DEVIATIONS) > 0:
            console.print(f"… and {more} more; --json lists all.", highlight=False)


def percentile(values: list[float], share: float) -> float:
    """Return the smallest of the sorted values that at least ``share`` of them do not exceed (nearest rank)."""
    return values[max(0, math.ceil(share * len(values)) - 1)]


def _summary(seconds: list[float]) -> dict[str, Any]:
    ordered = sorted(seconds)
    shares = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99, "max_ms": 1.0}
    return {"count": len(ordered)} | {
        name: round(percentile(ordered, share) * 1000, 3) for name, share in shares.items()
    }
