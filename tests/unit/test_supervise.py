from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from cli.supervise import Interrupts, Supervisor, UsherCommand, how
from models.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from cli.embedded.process import Child


class Fragile:
    """A service that the test kills and counts."""

    name = "fragile"

    def __init__(self, *, launchable: bool = True) -> None:
        self.launches = 0
        self.code: int | None = None
        self.launchable = launchable
        self.child = cast("Child", SimpleNamespace(tail=lambda: "its last words"))

    def launch(self) -> None:
        self.launches += 1
        if not self.launchable:
            raise UsageError("cannot be started")
        self.code = None

    def poll(self) -> int | None:
        return self.code


class Clock:
    """Time that the test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def delays_until(supervisor: Supervisor, service: Fragile, clock: Clock, deaths: int) -> list[float]:
    """Kill the service again and again; return how long each new launch took to come."""
    delays = []
    for _ in range(deaths):
        service.code = -9
        supervisor.check()
        before, died = service.launches, clock.now
        while service.launches == before:
            clock.now += 0.05
            supervisor.check()
        delays.append(clock.now - died)
    return delays


def test_a_dead_service_is_launched_again_later_each_time() -> None:
    said: list[str] = []
    clock, service = Clock(), Fragile()
    supervisor = Supervisor(said.append, clock)
    supervisor.watch(service)

    supervisor.check()
    assert service.launches == 0

    assert delays_until(supervisor, service, clock, 7) == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0], abs=0.06)
    assert said[0] == "fragile ended (killed by SIGKILL); starting it again in 0.2 s"
    assert len(said) == 7

    clock.now += 60
    assert delays_until(supervisor, service, clock, 2) == pytest.approx([0.2, 0.4], abs=0.06)


def test_a_service_that_cannot_be_launched_is_tried_again() -> None:
    said: list[str] = []
    clock, service = Clock(), Fragile(launchable=False)
    supervisor = Supervisor(said.append, clock)
    supervisor.watch(service)
    service.code = 1

    for _ in range(20):
        supervisor.check()
        clock.now += 0.1

    assert service.launches == 3
    assert "cannot be started" in said[1]


def test_a_death_before_the_first_work_is_an_error_with_the_last_words() -> None:
    service = Fragile()
    supervisor = Supervisor(lambda _: None)
    supervisor.watch(service)
    supervisor.demand_alive()

    service.code = 3
    with pytest.raises(UsageError, match=r"fragile ended at its start \(exit 3\):\nits last words"):
        supervisor.demand_alive()


@pytest.mark.parametrize(
    ("code", "words"), [(0, "exit 0"), (2, "exit 2"), (-15, "killed by SIGTERM"), (-99, "killed by signal 99")]
)
def test_exit_codes_in_words(code: int, words: str) -> None:
    assert how(code) == words


def test_a_signal_interrupts_once_and_is_then_only_counted() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert interrupts.count == 2
    assert signal.getsignal(signal.SIGTERM) == before

    with Interrupts() as interrupts:
        interrupts.only_count()
        signal.raise_signal(signal.SIGHUP)
        assert interrupts.count == 1


def test_an_interrupt_that_was_dropped_is_raised_again() -> None:
    with Interrupts() as interrupts:
        with suppress(KeyboardInterrupt):  # as a finaliser of the interpreter does
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            threading.Event().wait(30)
        interrupts.only_count()
        assert interrupts.count == 1
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


_INTERRUPTED = """
from contextlib import suppress
from cli.supervise import Interrupts
with suppress(KeyboardInterrupt), Interrupts():
    exec("import signal; signal.raise_signal(signal.SIGINT)")
"""


def test_who_was_interrupted_while_a_class_was_being_made_ends_well_all_the_same() -> None:
    assert subprocess.run([sys.executable, "-c", _INTERRUPTED], check=False).returncode == 0


def test_nohup_is_honoured() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupts.count == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_command_runs_with_the_settings_it_is_given(data_dir: Path) -> None:
    command = UsherCommand(data_dir, "refused", ["migrate"], {"USHER_DATABASE_URL": "mysql://"})
    command.launch()

    assert command.child.wait(60) == 2
    assert "USHER_DATABASE_URL" in command.child.tail()
    command.child.forget()
