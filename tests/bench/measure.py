"""Rounds, their medians and their spread."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cli.simulate.report import percentile

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

_SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one workload.

    Attributes:
        rate: how many a second; None where only the time of one is of interest.
        times: p50, p95 and p99 in seconds, by kind of request.
        load_seconds: processor time of the load generator for one request, where there is one.
        cpu_seconds: processor time of the servers for one of what the rate counts, by what they are.
    """

    rate: float | None = None
    times: dict[str, dict[str, float]] = field(default_factory=dict)
    load_seconds: float | None = None
    cpu_seconds: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Workload:
    """Something whose speed is measured.

    Attributes:
        section: workloads of one section are measured in turn, round by round, against the same servers.
        unit: what the rate counts.
        measure: measures one round; round -1 is for warming up and is not counted.
        http: name of the workload that is the HTTP ceiling of this one.
        commit: name of the workload that is the commit ceiling of this one.
        beside: name of the workload that this one is to be as fast as.
    """

    section: str
    name: str
    unit: str
    measure: Callable[[int], Awaitable[Sample]]
    http: str | None = None
    commit: str | None = None
    beside: str | None = None
    samples: list[Sample] = field(default_factory=list)


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p95 and p99 of some times."""
    ordered = sorted(seconds)
    return {name: percentile(ordered, share) for name, share in _SHARES.items()}


async def measure_in_turn(workloads: list[Workload], rounds: int, say: Callable[[str], None]) -> None:
    """Measure workloads round by round, each once a round, so that a slow moment of the machine hits them alike."""
    for number in range(-1, rounds):
        for workload in workloads:
            say(f"{workload.section}: {workload.name}, " + (f"round {number + 1}" if number >= 0 else "warming up"))
            sample = await workload.measure(number)
            if number >= 0:
                workload.samples.append(sample)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median of some values and the least and greatest of them."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratio(workload: Workload, ceiling: Workload) -> dict[str, float]:
    """Return the ratio of two rates, round by round: what the machine did to one round it did to both."""
    pairs = zip(workload.samples, ceiling.samples, strict=True)
    return spread([ours.rate / theirs.rate for ours, theirs in pairs if ours.rate and theirs.rate])


def summary(workload: Workload, others: dict[str, Workload]) -> dict[str, Any]:
    """Return what is known of a workload as JSON values; rates a second, times in milliseconds.

    Args:
        workload: one that was measured.
        others: all of its section, by name.
    """
    found: dict[str, Any] = {"section": workload.section, "name": workload.name, "unit": workload.unit}
    if rates := [sample.rate for sample in workload.samples if sample.rate is not None]:
        found["rate"] = spread(rates) | {"rounds": rates}
    found["times_ms"] = {
        kind: {
            name: spread([sample.times[kind][name] * 1000 for sample in workload.samples])
            for name in workload.samples[0].times[kind]
        }
        for kind in workload.samples[0].times
    }
    if loads := [sample.load_seconds for sample in workload.samples if sample.load_seconds is not None]:
        found["load_generator_us_per_request"] = spread([seconds * 1e6 for seconds in loads])
    if roles := workload.samples[0].cpu_seconds:
        found["cpu_us"] = {
            role: spread([sample.cpu_seconds[role] * 1e6 for sample in workload.samples]) for role in roles
        }
    if workload.http:
        found["of_http_ceiling"] = ratio(workload, others[workload.http])
    if workload.commit:
        found["of_commit_ceiling"] = ratio(workload, others[workload.commit])
    if workload.beside:
        found["of_beside"] = ratio(workload, others[workload.beside])
    return found
