"""A soak would be worthless if what grows did not show."""

from __future__ import annotations

import pytest

from tests.soak.samples import BOUNDS, WARM_UP_SHARE, slopes


def test_a_leak_shows_whatever_happened_while_it_warmed_up() -> None:
    """A minute of 5-second samples: steep at first, then 2 an hour or none."""
    samples = []
    for step in range(121):
        seconds = step * 5.0
        warm = seconds < 600 * WARM_UP_SHARE
        leaked = 50 + seconds if warm else 300 + 2 * seconds / 3600
        samples.append((seconds, {"leak": leaked, "flat": 7.0, "noisy": 10.0 + step % 2}))
    leak, flat, noisy = slopes(samples, {"leak": 1.0, "flat": 1.0, "noisy": 2.0})
    assert leak.per_hour == pytest.approx(2.0)
    assert leak.beyond
    assert flat.per_hour == pytest.approx(0.0)
    assert (flat.beyond, noisy.beyond) == (False, False)
    assert (noisy.most, leak.bound) == (11.0, 1.0)


def test_a_burst_near_the_end_is_no_growth_and_hides_none() -> None:
    """Half an hour: for five of the last minutes a busy pool holds ten sessions more."""
    samples = []
    for step in range(360):
        burst = 10.0 if 280 <= step < 340 else 0.0
        grown = step // 60 * 2.0  # one every 150 s
        samples.append((step * 5.0, {"pool": 24.0 + burst, "leak": 24.0 + burst + grown}))
    pool, leak = slopes(samples, {"pool": 15.0, "leak": 15.0})
    assert (pool.most, pool.beyond) == (34.0, False)
    assert leak.beyond


def test_what_grows_by_design_is_shown_and_not_judged() -> None:
    samples = [(step * 5.0, {"rows": step * 1000.0}) for step in range(60)]
    (rows,) = slopes(samples, {"rows": None})
    assert rows.per_hour > 100_000
    assert not rows.beyond


def test_what_a_fault_took_away_is_a_gap_and_not_a_zero() -> None:
    samples = [(step * 5.0, {} if step % 3 else {"sessions": 20.0}) for step in range(60)]
    (sessions,) = slopes(samples, {"sessions": 1.0})
    assert sessions.per_hour == pytest.approx(0.0)
    assert slopes(samples, {"of a server that never answered": 1.0}) == []
    assert slopes([], BOUNDS) == []
