"""Numbers that a process counts for `/metrics`, in memory that other processes and a successor can read.

A count is one addition to a float in shared memory (about 0.2 µs), so no request waits for it, and a process that is
killed takes none of it along. With a folder, each process holds one of its files (`0.counts`, `1.counts`, …) under a
lock that the kernel lets go of however the process ends; the next process that starts takes the file over and counts
on in it. So there are as many files as there ever were processes at once, and no sum over them goes back.

A file: 8-byte words. `[format, words in use, seconds of the last sign of life, number of the process]`, then one entry
for each series: `[bytes of the key, number of values]`, the key (JSON of name and labels), the values as doubles.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import mmap
import os
import time
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_BYTES = 512 * 1024
_HEAD = 4
_FORMAT, _USED, _BEAT, _PID = range(_HEAD)
_MOST_FILES = 1024
_DEAD_AFTER_SECONDS = 10.0
_SCRATCH = 64  # words at the end for what finds no room: it is counted and never shown

_NOTHING = memoryview(bytes(0)).cast("d")

Key = tuple[str, tuple[str, ...]]
"""A metric's name and the values of its labels."""


@dataclass(slots=True, eq=False)
class Metric:
    """One family of numbers."""

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, ascending; the last bucket has none."""
    merge: Literal["sum", "max"] = "sum"
    """What a gauge of several processes is."""
    _counts: Counts | None = field(default=None, repr=False)
    _at: dict[tuple[str, ...], int] = field(default_factory=dict, repr=False)
    _values: memoryview[float] = field(default=_NOTHING, repr=False)

    @property
    def width(self) -> int:
        """How many numbers a series has."""
        return len(self.bounds) + 2 if self.kind == "histogram" else 1

    def begin(self, labels: tuple[str, ...]) -> int:
        """Make a series and return its place."""
        if self._counts is None or len(labels) != len(self.labels):
            raise TypeError(f"{self.name} is not registered, or has the labels {self.labels} and not {labels}.")
        return self._counts.begin(self, labels)


class Counter(Metric):
    """Goes up only."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...] = ()) -> None:
        super().__init__(name, "counter", text, labels)

    def add(self, by: float, *labels: str) -> None:
        """Add ``by`` to the series of these labels, which stand in the order of ``self.labels``."""
        at = self._at.get(labels)
        if at is None:
            at = self.begin(labels)
        self._values[at] += by


class Gauge(Metric):
    """Is what it is now. What a process set counts only while that process lives."""

    def __init__(
        self, name: str, text: str, labels: tuple[str, ...] = (), *, merge: Literal["sum", "max"] = "sum"
    ) -> None:
        super().__init__(name, "gauge", text, labels, merge=merge)

    def set(self, value: float, *labels: str) -> None:
        """Say what it is now."""
        at = self._at.get(labels)
        if at is None:
            at = self.begin(labels)
        self._values[at] = value


class Histogram(Metric):
    """Counts values by size. A series is its buckets, each for itself, and the sum of all values."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...], bounds: tuple[float, ...]) -> None:
        super().__init__(name, "histogram", text, labels, bounds)

    def observe(self, value: float, *labels: str) -> None:
        """Count one value."""
        at = self._at.get(labels)
        if at is None:
            at = self.begin(labels)
        values = self._values
        values[at + bisect_left(self.bounds, value)] += 1.0
        values[at + len(self.bounds) + 1] += value


@dataclass(slots=True)
class _Memory:
    """The words of one file, or of a process that shares with nobody."""

    doubles: memoryview[float]
    words: memoryview[int]
    raw: memoryview[int]

    @classmethod
    def over(cls, memory: mmap.mmap | bytes) -> _Memory:
        raw = memoryview(memory)
        return cls(raw.cast("d"), raw.cast("q"), raw)

    def entries(self) -> Iterator[tuple[Key, int, int]]:
        """Give the key, the place and the number of values of each series."""
        place, used = _HEAD, self.words[_USED]
        while place < used:
            length, width = self.words[place], self.words[place + 1]
            begin = (place + 2) * 8
            name, *labels = orjson.loads(self.raw[begin : begin + length])
            place += 2 + -(-length // 8)
            yield (name, tuple(labels)), place, width
            place += width

    def append(self, key: Key, width: int) -> int | None:
        """Add a series of zeros and return its place, or None if the memory is full."""
        text = orjson.dumps([key[0], *key[1]])
        place = self.words[_USED]
        values = place + 2 + -(-len(text) // 8)
        if values + width > _BYTES // 8 - _SCRATCH:
            return None
        begin = (place + 2) * 8
        self.raw[begin : begin + len(text)] = text
        self.words[place], self.words[place + 1] = len(text), width
        self.words[_USED] = values + width  # last: who reads meanwhile does not see half of it
        return values


class Counts:
    """All that this process counts, and what the others in its folder do."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        """Take the metrics that there are; they count here from now on."""
        self._metrics = {metric.name: metric for metric in metrics}
        shapes = [[one.name, one.kind, one.labels, one.bounds] for one in self._metrics.values()]
        self._format = int.from_bytes(hashlib.sha256(orjson.dumps(shapes)).digest()[:7], "little")
        self._folder: Path | None = None
        self._held: int | None = None
        self.number = 0
        """Which of the folder's files this process has."""
        for metric in self._metrics.values():
            metric._counts = self  # noqa: SLF001  a part of the same thing
        self._use(self._private())

    def share(self, folder: Path) -> None:
        """Count in a file of ``folder`` from now on, and have `read` sum over all files there.

        What was counted before stays out of it: a process calls this when it starts.

        Raises:
            OSError: the folder cannot be written, or its disk is full.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in range(_MOST_FILES):
            descriptor = os.open(_path(folder, number), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            try:
                memory = self._take(descriptor)
            except OSError:
                os.close(descriptor)
                raise
            self._let_go()
            self._folder, self.number, self._held = folder, number, descriptor
            self._use(memory)
            return
        raise OSError(f"{_MOST_FILES} processes count in {folder} already.")

    def _take(self, descriptor: int) -> _Memory:
        """Map a file that is ours now, begun anew if another version of Usher wrote it."""
        if os.fstat(descriptor).st_size != _BYTES or os.pread(descriptor, 8, 0) != self._format.to_bytes(8, "little"):
            os.ftruncate(descriptor, 0)
            os.posix_fallocate(descriptor, 0, _BYTES)  # a page that has no room on the disk would end the process
        memory = _Memory.over(mmap.mmap(descriptor, _BYTES))
        for (name, _), place, _ in memory.entries():
            if self._metrics[name].kind == "gauge":
                memory.doubles[place] = math.nan  # of the process before
        return memory

    @staticmethod
    def _private() -> _Memory:
        return _Memory.over(mmap.mmap(-1, _BYTES, flags=mmap.MAP_PRIVATE))  # a fork's counts are its own, too

    def _use(self, memory: _Memory) -> None:
        memory.words[_USED] = max(memory.words[_USED], _HEAD)
        memory.words[_PID] = os.getpid()
        memory.words[_FORMAT] = self._format
        self._memory = memory
        for metric in self._metrics.values():
            metric._values, metric._at = memory.doubles, {}  # noqa: SLF001  a part of the same thing
        for (name, labels), place, _ in memory.entries():
            self._metrics[name]._at[labels] = place  # noqa: SLF001  as above
        self.beat()

    def begin(self, metric: Metric, labels: tuple[str, ...]) -> int:
        """Make a series and return its place; one that finds no room in the memory is never shown."""
        place = self._memory.append((metric.name, labels), metric.width)
        if place is None:
            return _BYTES // 8 - _SCRATCH
        metric._at[labels] = place  # noqa: SLF001  a part of the same thing
        return place

    def beat(self) -> None:
        """Give a sign of life; every second or so."""
        self._memory.doubles[_BEAT] = time.time()

    def read(self, *, own: bool = False) -> dict[Key, list[float]]:
        """Return every series of this process, or of all in the folder: counts added up, gauges as they say.

        Args:
            own: leave the other processes out.
        """
        found: dict[Key, list[float]] = {}
        self._merge(found, self._memory, living=True)
        if self._folder is None or own:
            return found
        for number in range(_MOST_FILES):
            if number == self.number:
                continue
            try:
                content = _path(self._folder, number).read_bytes()
            except FileNotFoundError:
                break
            if len(content) == _BYTES and content[:8] == self._format.to_bytes(8, "little"):
                memory = _Memory.over(content)
                self._merge(found, memory, living=time.time() - memory.doubles[_BEAT] < _DEAD_AFTER_SECONDS)
        return found

    def _merge(self, found: dict[Key, list[float]], memory: _Memory, *, living: bool) -> None:
        for key, place, width in memory.entries():
            metric = self._metrics[key[0]]
            values = list(memory.doubles[place : place + width])
            if metric.kind == "gauge" and (not living or math.isnan(values[0])):
                continue
            before = found.get(key)
            if before is None:
                found[key] = values
            elif metric.merge == "max":
                found[key] = [max(before[0], values[0])]
            else:
                found[key] = [one + other for one, other in zip(before, values, strict=True)]

    def close(self) -> None:
        """Leave the folder: this process's counters stay there, its gauges are forgotten."""
        self._memory.doubles[_BEAT] = 0.0
        self._let_go()
        self._use(self._private())

    def _let_go(self) -> None:
        if self._held is not None:
            os.close(self._held)
        self._folder, self.number, self._held = None, 0, None


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number}.counts"
