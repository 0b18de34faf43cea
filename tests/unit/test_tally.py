"""The sums that a process keeps of its jobs, and the quantiles that are read out of them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.tally import BOUNDS, BUCKETS, Tally, bucket, quantile

SECONDS = st.floats(min_value=0, max_value=BOUNDS[-1])


def histogram(values: list[float]) -> list[int]:
    counts = [0] * BUCKETS
    for value in values:
        counts[bucket(value)] += 1
    return counts


@given(st.lists(SECONDS, min_size=1, max_size=300), st.floats(min_value=0.001, max_value=1))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], share: float) -> None:
    true = sorted(values)[max(1, math.ceil(share * len(values))) - 1]
    found = quantile(histogram(values), share)
    assert found is not None
    place = bucket(true)
    lower = 0.0 if place == 0 else BOUNDS[place - 1]
    assert lower * (1 - 1e-9) <= found <= BOUNDS[place] * (1 + 1e-9)


@given(st.lists(SECONDS, min_size=1, max_size=100), st.floats(0.001, 1), st.floats(0.001, 1))
def test_a_larger_share_is_never_faster(values: list[float], one: float, other: float) -> None:
    counts = histogram(values)
    low, high = (quantile(counts, share) for share in sorted((one, other)))
    assert low is not None
    assert high is not None
    assert low <= high * (1 + 1e-12)


def test_nothing_counted_has_no_quantile_and_the_endless_bucket_its_bound() -> None:
    assert quantile([0] * BUCKETS, 0.5) is None
    assert quantile(histogram([1e9]), 0.5) == BOUNDS[-1]


def test_a_bound_belongs_to_the_bucket_below_it() -> None:
    for place, bound in enumerate(BOUNDS):
        assert bucket(bound) == place
        assert bucket(math.nextafter(bound, math.inf)) == place + 1
    assert bucket(0) == 0
    assert bucket(-0.5) == 0, "clocks that disagree are no reason to fail"


def test_it_adds_up_by_minute_and_kind() -> None:
    now = 120.0
    tally = Tally(lambda: now)
    tally.started("user.create", 3, [0.01, 0.01])
    tally.done("user.create", 2, 0.5)
    tally.failed("user.create", 0.7, dead=False)
    tally.lost("invitation.send", dead=True)
    now = 181.0
    tally.done("user.create", 5, 0.5)
    rows = {(minute.minute, minute.kind): minute for minute, _ in tally.unwritten()}
    assert set(rows) == {(120, "user.create"), (120, "invitation.send"), (180, "user.create")}
    first = rows[120, "user.create"]
    assert (first.started, first.done, first.failed, first.dead) == (3, 2, 1, 0)
    assert first.queueing == histogram([0.01, 0.01])
    assert first.running == histogram([0.5, 0.5, 0.7])
    mail = rows[120, "invitation.send"]
    assert (mail.failed, mail.dead, sum(mail.running)) == (1, 1, 0)
    assert (tally.done_total, tally.failed_total) == (7, 1), "what another process lost is not this one's failure"


def test_what_changed_while_it_was_written_is_written_again() -> None:
    now = 0.0
    tally = Tally(lambda: now)
    tally.done("user.create", 1, 0.1)
    taken = tally.unwritten()
    tally.done("user.create", 1, 0.1)
    tally.wrote(taken)
    assert [minute.done for minute, _ in tally.unwritten()] == [2]
    tally.wrote(tally.unwritten())
    assert tally.unwritten() == []


@pytest.mark.parametrize(("seconds", "kept"), [(0, True), (60, True), (3590, True), (3700, False)])
def test_what_cannot_be_written_is_kept_for_an_hour(seconds: float, kept: bool) -> None:
    now = 0.0
    tally = Tally(lambda: now)
    tally.done("user.create", 1, 0.1)
    now = seconds
    tally.give_up()
    assert bool(tally.unwritten()) is kept


def test_minutes_that_are_over_and_written_are_forgotten() -> None:
    now = 0.0
    tally = Tally(lambda: now)
    tally.done("user.create", 1, 0.1)
    tally.wrote(tally.unwritten())
    assert len(tally._minutes) == 1, "it may still change"
    now = 200.0
    tally.wrote([])
    assert tally._minutes == {}
