"""The experiments' outcomes, gathered into the table that `make faults` and `make faults-all` end with."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

MARK: Final = "promise"
QUICK_SEED: Final = 20261128
_WANTED: Final = os.environ.get("USHER_TEST_FAULTS", "")
ALL: Final = _WANTED in ("each", "all")
"""Whether the long experiments are wanted too."""
FULL: Final = _WANTED == "all"
"""Whether experiments are wanted at full length; `each` runs every one of them in its short form."""


def run_seed() -> int:
    """Return the seed of this run: the one that is given, else any at full length, else the usual one."""
    given = os.environ.get("USHER_TEST_SEED")
    if given:
        return int(given)
    if not FULL:
        return QUICK_SEED
    # The same in every process of one run.
    return int(os.environ.get("PYTEST_XDIST_TESTRUNUID", os.urandom(4).hex())[:8], 16)


SEED: Final = run_seed()


def scale(quick: int, full: int) -> int:
    """Return how much an experiment does: little in its short form, and all of it otherwise."""
    return full if FULL else quick


def number(promise: str) -> int:
    """Return the number of a promise, to sort by."""
    return int(re.sub(r"\D", "", promise) or 0)


def sentence(test: str) -> str:
    """Return a test's name as the sentence that it is."""
    return test.partition("::test_")[2].replace("_", " ")


def table(reports: Iterable[pytest.TestReport]) -> list[str]:
    """Return the lines of the table: promise, outcome, seconds, experiment and what was measured."""
    rows: list[tuple[str, str, str, str, str]] = []
    for report in reports:
        kept: dict[str, Any] = dict(report.user_properties)
        if MARK not in kept:
            continue
        measured = ", ".join(f"{name} {_shown(value)}" for name, value in kept.items() if name != MARK)
        if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
            measured = report.longrepr[2]
        rows.append((kept[MARK], report.outcome, f"{report.duration:.0f} s", sentence(report.nodeid), measured))
    rows.sort(key=lambda row: (number(row[0]), row[3]))
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    lines = []
    for row in rows:
        head = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        lines.append(f"{head}  {row[3]}")
        if row[4]:
            lines.append(f"{' ' * len(head)}    {row[4]}")
    return lines


def _shown(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
