"""Limits of a token: below them all is let in, above them is told when to come back, and nobody pays for others."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from uuid_utils.compat import uuid7

from api.auth import Principal
from api.limits import BURST_SECONDS, Limits, OverLimitError, Use
from models.audit.record import Actor
from models.directory.schemas import STANDARD
from models.settings import load_settings

if TYPE_CHECKING:
    from aiohttp import web

    from models.settings import Settings


class Clock:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    return made


def settings(rate: float, in_flight: int = 1000) -> Settings:
    return load_settings(
        database_url="postgresql://x@127.0.0.1/x",
        redis_url="redis://127.0.0.1/0",
        secret_key="a-secret-key-for-tests-of-enough-length",
        token_rate=rate,
        token_in_flight=in_flight,
    )


def enter(limits: Limits, who: Principal) -> Use:
    return limits.enter(who, cast("web.Request", SimpleNamespace(protocol=None)))


def principal(name: str = "a") -> Principal:
    return Principal(uuid7(), Actor("token", name, name), STANDARD)


def accepted(limits: Limits, who: Principal, most: int = 10_000) -> int:
    """Return how many requests are let in, each answered at once, before one is refused."""
    for number in range(most):
        try:
            enter(limits, who).leave()
        except OverLimitError:
            return number
    return most


def test_a_burst_is_let_in_and_then_the_rate(clock: Clock) -> None:
    limits, who = Limits(settings(rate=100)), principal()
    assert accepted(limits, who) == pytest.approx(100 * BURST_SECONDS, abs=1)
    clock.now += 0.5
    assert accepted(limits, who) == pytest.approx(50, abs=1)
    clock.now += 3600
    assert accepted(limits, who) == pytest.approx(100 * BURST_SECONDS, abs=1), "an hour of rest is no larger burst"


def test_a_steady_sender_below_the_rate_is_never_refused(clock: Clock) -> None:
    limits, who = Limits(settings(rate=100)), principal()
    for _ in range(5000):
        enter(limits, who).leave()
        clock.now += 1 / 99


def test_a_refused_request_is_told_when_there_is_room(clock: Clock) -> None:
    limits, who = Limits(settings(rate=0.25)), principal()
    assert accepted(limits, who) == 1
    with pytest.raises(OverLimitError) as refused:
        enter(limits, who)
    assert refused.value.retry_seconds == 2
    clock.now += refused.value.retry_seconds
    enter(limits, who).leave()


def test_requests_under_way_are_limited_until_they_leave(clock: Clock) -> None:
    limits, who = Limits(settings(rate=0, in_flight=3)), principal()
    uses = [enter(limits, who) for _ in range(3)]
    with pytest.raises(OverLimitError) as refused:
        enter(limits, who)
    assert (refused.value.reason, refused.value.retry_seconds) == ("in_flight", 1)
    uses[0].leave()
    enter(limits, who)


def test_no_rate_is_no_limit(clock: Clock) -> None:
    assert accepted(Limits(settings(rate=0)), principal()) == 10_000


def test_one_token_does_not_pay_for_another(clock: Clock) -> None:
    limits, who, other = Limits(settings(rate=1, in_flight=2)), principal("a"), principal("b")
    accepted(limits, who)
    enter(limits, other)


def test_operations_of_a_bulk_request_count_each(clock: Clock) -> None:
    limits, who = Limits(settings(rate=100)), principal()
    enter(limits, who).leave()
    limits.charge(who, 999)
    with pytest.raises(OverLimitError) as refused:
        enter(limits, who)
    assert refused.value.retry_seconds == 8
    clock.now += 8.1
    enter(limits, who).leave()


def test_one_refusal_a_minute_is_told_with_the_number_of_all(clock: Clock) -> None:
    limits, who = Limits(settings(rate=0.001, in_flight=1)), principal()
    accepted(limits, who)  # the refusal that ends it is told
    told = []
    for _ in range(130):
        with pytest.raises(OverLimitError) as refused:
            enter(limits, who)
        told.append(refused.value.refused)
        clock.now += 1
    assert [number for number in told if number is not None] == [61, 60]


def test_tokens_that_ask_for_nothing_are_forgotten(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.limits._MOST_TOKENS", 10)
    limits = Limits(settings(rate=100))
    held = enter(limits, principal("held"))
    for number in range(50):
        enter(limits, principal(f"t{number}")).leave()
        clock.now += 1
    assert len(limits._uses) <= 11
    assert limits._uses["held"] is held
