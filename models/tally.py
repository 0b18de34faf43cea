"""Adding up, in memory, what a process does with jobs: by minute and kind, with histograms of seconds.

Counting is a few additions a batch; `models.statistics` writes the sums down on every beat and reads them back.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

MINUTE = 60
BOUNDS: tuple[float, ...] = tuple(0.001 * 2 ** (step / 2) for step in range(54))
"""Upper bounds of the buckets in seconds, from a millisecond to more than a day, each 41 % above the last."""
BUCKETS = len(BOUNDS) + 1
"""One more than there are bounds: the last bucket has none."""
_MOST_MINUTES = 60  # kept while PostgreSQL is away; older ones are given up


def bucket(seconds: float) -> int:
    """Return the index of the bucket that a duration falls into: above one bound, up to and with the next."""
    return bisect_left(BOUNDS, seconds)


def quantile(counts: Sequence[int], share: float) -> float | None:
    """Return the ``share`` quantile of a histogram in seconds, interpolated within its bucket; None if it is empty.

    Args:
        counts: by bucket.
        share: above 0, at most 1; 0.95 is the 95th percentile.
    """
    total = sum(counts)
    if not total:
        return None
    rank = max(1, math.ceil(share * total))
    before = 0
    for index, count in enumerate(counts):
        if before + count >= rank:
            if index == len(BOUNDS):
                return BOUNDS[-1]
            place = (rank - before) / count
            upper = BOUNDS[index]
            # The buckets grow by a factor, so the place within one is a power of it; the first begins at nothing.
            return upper * place if index == 0 else BOUNDS[index - 1] * (upper / BOUNDS[index - 1]) ** place
        before += count
    raise AssertionError(rank)  # the ranks are those that were counted


@dataclass(slots=True)
class Minute:
    """What was done with one kind of job in one minute."""

    minute: int
    """Seconds since the epoch at which it begins."""
    kind: str
    started: int = 0
    done: int = 0
    failed: int = 0
    """Attempts that did not end well, the last ones included."""
    dead: int = 0
    queueing: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    """Jobs by the seconds from when they were due to their first start."""
    running: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    """Attempts by the seconds that they took; of a batch, each took as long as the batch."""
    changes: int = 0
    written: int = 0
    """How many of the changes had been made when it was last written down."""


class Tally:
    """What one process did since it began, and by minute what is not yet written down."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """Take the clock that says which minute it is."""
        self._clock = clock
        self._minutes: dict[tuple[int, str], Minute] = {}
        self.done_total = 0
        self.failed_total = 0

    def _now(self, kind: str) -> Minute:
        key = (int(self._clock()) // MINUTE * MINUTE, kind)
        minute = self._minutes.get(key)
        if minute is None:
            minute = self._minutes[key] = Minute(*key)
        minute.changes += 1
        return minute

    def started(self, kind: str, count: int, waits: Iterable[float]) -> None:
        """Count ``count`` attempts that begin, and the seconds that those which are first ones have waited."""
        minute = self._now(kind)
        minute.started += count
        queueing = minute.queueing
        for seconds in waits:
            queueing[bisect_left(BOUNDS, seconds)] += 1

    def done(self, kind: str, count: int, seconds: float) -> None:
        """Count ``count`` jobs that were done together in ``seconds``."""
        minute = self._now(kind)
        minute.done += count
        minute.running[bucket(seconds)] += count
        self.done_total += count

    def failed(self, kind: str, seconds: float, *, dead: bool) -> None:
        """Count an attempt that did not end well after ``seconds``."""
        minute = self._now(kind)
        minute.failed += 1
        minute.dead += dead
        minute.running[bucket(seconds)] += 1
        self.failed_total += 1

    def lost(self, kind: str, *, dead: bool) -> None:
        """Count an attempt that another process took with it; how long it ran nobody knows."""
        minute = self._now(kind)
        minute.failed += 1
        minute.dead += dead

    def unwritten(self) -> list[tuple[Minute, int]]:
        """Return the minutes that have changed since they were written, with the number of their changes so far."""
        return [(minute, minute.changes) for minute in self._minutes.values() if minute.changes > minute.written]

    def wrote(self, minutes: Iterable[tuple[Minute, int]]) -> None:
        """Take note of what `unwritten` returned having been written, and forget minutes that are over."""
        for minute, changes in minutes:
            minute.written = changes
        self._forget(lambda minute: minute.changes == minute.written, minutes_old=1)

    def give_up(self) -> None:
        """Forget what could not be written for an hour."""
        self._forget(lambda _: True, minutes_old=_MOST_MINUTES)

    def _forget(self, which: Callable[[Minute], bool], *, minutes_old: int) -> None:
        bound = int(self._clock()) - (minutes_old + 1) * MINUTE
        over = [key for key, minute in self._minutes.items() if key[0] < bound and which(minute)]
        for key in over:
            del self._minutes[key]
