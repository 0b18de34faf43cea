"""The experiments that prove the promises of docs/promises.md.

Each test bears the promise that it proves: `@pytest.mark.promise("P3")`. With `quick=True` it runs with every other
test; the rest runs when `USHER_TEST_FAULTS` is `all`, as `make faults-all` has it. `USHER_TEST_SEED` brings the
dice of an earlier run back.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from tests.support.promises import ALL, FULL, MARK, SEED, table
from tests.support.rig import Grounds, rigged
from tests.support.servers import reachable_folder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.support.rig import Rig

    MakeRig = Callable[..., AbstractAsyncContextManager[Rig]]
    Measure = Callable[..., None]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARK}(number, quick=False): the promise of docs/promises.md that is proved")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long experiments out unless they are asked for."""
    left_out = []
    for item in items:
        mark = item.get_closest_marker(MARK)
        if mark is not None and not (ALL or mark.kwargs.get("quick")):
            left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what each experiment came to."""
    reports = [
        report
        for outcome in ("passed", "failed", "skipped")
        for report in terminalreporter.stats.get(outcome, [])
        if report.when == "call" or report.outcome != "passed"
    ]
    lines = table(reports)
    if lines:
        terminalreporter.section(f"promises, seed {SEED}")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def grounds() -> Iterator[Grounds]:
    """The servers that experiments may kill."""
    with reachable_folder(on_disk=FULL) as folder:
        made = asyncio.run(Grounds.make(folder))
        try:
            yield made
        finally:
            made.stop()


@pytest.fixture
def seed() -> int:
    """What chance is made of in this run."""
    print(f"seed {SEED}: USHER_TEST_SEED={SEED} brings it back")  # noqa: T201  pytest shows it with a failure
    return SEED


@pytest.fixture
def make_rig(grounds: Grounds, seed: int, tmp_path: Path) -> MakeRig:
    """Put up a rig of one's own making: number of processes and settings."""

    def make(**options: Any) -> AbstractAsyncContextManager[Rig]:
        return rigged(grounds, tmp_path, seed, **options)

    return make


@pytest_asyncio.fixture
async def rig(make_rig: MakeRig) -> AsyncIterator[Rig]:
    """Two front ends, two workers and the servers, all well."""
    async with make_rig() as made:
        yield made


@pytest.fixture(autouse=True)
def promised(request: pytest.FixtureRequest) -> None:
    """Have the table know which promise a test proves."""
    mark = request.node.get_closest_marker(MARK)
    if mark is not None:
        request.node.user_properties.append((MARK, mark.args[0]))


@pytest.fixture
def measure(request: pytest.FixtureRequest) -> Measure:
    """Take what was measured, by name, for the table."""

    def take(**values: Any) -> None:
        request.node.user_properties.extend((name.replace("_", " "), value) for name, value in values.items())

    return take
