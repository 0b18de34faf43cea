"""Keeping child processes running until told to stop: one that dies is started again, later each time."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from cli.embedded.process import Child
from models.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType

FIRST_DELAY = 0.2  # seconds before a dead child is started again; doubles each time
LAST_DELAY = 5.0
AGAIN = 0.5  # seconds until an interrupt that nobody heard is raised again
STEADY = 10.0  # seconds of life after which a death counts as the first again


class Service(Protocol):
    """A child process that can be launched again."""

    @property
    def name(self) -> str:
        """What it is called in messages and in the names of its files."""

    @property
    def child(self) -> Child:
        """The child process."""

    def launch(self) -> None:
        """Start it and do not wait for it."""

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""


class UsherCommand:
    """An `usher` command as a child process."""

    def __init__(self, home: Path, name: str, arguments: Sequence[str], settings: Mapping[str, str]) -> None:
        self.name = name
        self.child = Child(home, name)
        self._command = [sys.executable, "-m", "cli.main", *arguments]
        root = str(Path(__file__).parents[1])
        self._environment = {
            **os.environ,
            **settings,
            "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
        }

    def launch(self) -> None:
        """Start it and do not wait for it."""
        self.child.spawn(self._command, self._environment)

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""
        return self.child.poll()


class Watched:
    """A service with its record of deaths."""

    def __init__(self, service: Service, now: float) -> None:
        self.service = service
        self.launched = now
        self.delay = FIRST_DELAY
        self.due: float | None = None  # when it is to be launched again; None while it runs


class Interrupts:
    """The signals that ask this process to stop: they raise KeyboardInterrupt until they are only to be counted.

    An exception that is raised inside a finaliser or a callback of the interpreter is dropped there, so it is raised
    again every moment until somebody hears it.
    """

    def __init__(self) -> None:
        self.count = 0
        self._raising = True
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.getsignal(number)
            if self._before[number] != signal.SIG_IGN:  # nohup
                signal.signal(number, self._note)
        self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._raise)
        return self

    def __exit__(self, *_: object) -> None:
        self.only_count()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        # Python remembers an interrupt of a text that was being executed, as dataclasses and named tuples do while
        # they are imported, and ends by SIGINT in spite of an exit status; it forgets it with the next text.
        exec("")  # noqa: S102

    def only_count(self) -> None:
        """Raise nothing from now on."""
        self._raising = False
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count == 1 and self._raising:
            signal.setitimer(signal.ITIMER_REAL, AGAIN, AGAIN)
            self._raise(number, frame)

    def _raise(self, _number: int, _frame: FrameType | None) -> None:
        if self._raising:
            raise KeyboardInterrupt


class Supervisor:
    """Watches services; its owner calls `check` every moment."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._watched: list[Watched] = []

    def watch(self, service: Service) -> None:
        """Keep a service running that was launched just now."""
        self._watched.append(Watched(service, self._clock()))

    def demand_alive(self) -> None:
        """Check that every service runs, as long as it has not yet worked: then a death has a cause to be told.

        Raises:
            UsageError: one has ended; carries the end of its log.
        """
        for watched in self._watched:
            service = watched.service
            if (code := service.poll()) is not None:
                raise UsageError(f"{service.name} ended at its start ({how(code)}):\n{service.child.tail()}")

    def check(self) -> None:
        """Launch again what has died and whose delay is over, and say so."""
        now = self._clock()
        for watched in self._watched:
            if watched.due is None:
                if (code := watched.service.poll()) is not None:
                    self._plan(watched, now, how(code))
            elif now >= watched.due:
                watched.due = None
                watched.launched = now
                try:
                    watched.service.launch()
                except UsageError as error:
                    self._plan(watched, now, error.detail)

    def _plan(self, watched: Watched, now: float, why: str) -> None:
        if now - watched.launched >= STEADY:
            watched.delay = FIRST_DELAY
        watched.due = now + watched.delay
        self._say(f"{watched.service.name} ended ({why}); starting it again in {watched.delay:g} s")
        watched.delay = min(watched.delay * 2, LAST_DELAY)


def how(code: int) -> str:
    """Return an exit code in words."""
    if code >= 0:
        return f"exit {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
