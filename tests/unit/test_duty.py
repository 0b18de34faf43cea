"""A worker that was told to rest listens to nobody until it is called back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import wait_until
from worker import duty as duty_module
from worker.duty import Duty

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Rester:
    """A runner, as far as `Duty` knows one."""

    def __init__(self) -> None:
        self.told: list[bool] = []

    async def answer(self) -> None:
        """Do what a ring asks for."""

    def rest(self, *, resting: bool) -> None:
        self.told.append(resting)


class Ears:
    """Counts who listens to Redis."""

    def __init__(self) -> None:
        self.listening = 0
        self.begun = 0

    async def answer_rings(self, _settings: Any, _queue: str, _answer: Callable[[], Awaitable[None]]) -> None:
        self.begun += 1
        self.listening += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.listening -= 1


async def test_resting_hangs_up_and_working_listens_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ears, runner, settings = Ears(), Rester(), object()
    monkeypatch.setattr(duty_module, "answer_rings", ears.answer_rings)
    runners: Any = {"provision": runner}
    anything: Any = settings
    duty = Duty(anything, runners)
    listening = asyncio.create_task(duty.listen("provision"))
    await wait_until(lambda: ears.listening, "it listens")
    duty.told(False)
    assert runner.told == [], "nothing new"
    duty.told(True)
    duty.told(True)
    await wait_until(lambda: not ears.listening, "it hangs up")
    for _ in range(50):  # whatever would go on by itself has its turn
        await asyncio.sleep(0)
    assert (ears.listening, ears.begun) == (0, 1)
    duty.told(False)
    await wait_until(lambda: ears.listening, "it listens again")
    assert (ears.begun, runner.told) == (2, [True, False])
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    assert ears.listening == 0


async def test_a_fault_of_listening_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(duty_module, "answer_rings", broken)
    anything: Any = None
    runners: Any = {"provision": Rester()}
    with pytest.raises(RuntimeError, match="a fault"):
        await Duty(anything, runners).listen("provision")
