"""``python -m tests.soak``: half an hour of steady work, and what grows meanwhile.

docs/benchmark.md says what is done, looked at and judged.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import secrets
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from cli.simulate.report import percentile
from models.audit.record import Actor
from models.db import is_unavailable
from models.schedules import run_now
from tests.soak import browsers, invariants
from tests.soak.faults import trouble
from tests.soak.samples import BOUNDS, JUDGED_SECONDS, WARM_UP_SHARE, sample, slopes
from tests.soak.stage import stage
from tests.soak.traffic import Findings, Traffic, session
from tests.support.api import make_tenant, store, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.soak.samples import Row, Slope
    from tests.soak.stage import Stage

_SAMPLE_SECONDS = 5.0
_PRUNE_SECONDS = 60.0
_DRAIN_SECONDS = 300.0
_SHOWN = 5


@dataclass(slots=True)
class Result:
    """What a soak has found."""

    told: Findings = field(default_factory=Findings)
    samples: list[tuple[float, Row]] = field(default_factory=list)
    happened: Counter[str] = field(default_factory=Counter)
    violated: dict[str, list[str]] = field(default_factory=dict)
    logged: Counter[str] = field(default_factory=Counter)
    """Lines of processes' logs at level error, by their action."""
    seconds: float = 0.0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (30)")
    parser.add_argument("--faults", action="store_true", help="let faults happen at random")
    parser.add_argument("--rate", type=float, default=2.0, help="new users a second (2)")
    parser.add_argument("--keep", type=int, default=400, help="users that are there at once (400)")
    parser.add_argument("--seed", type=int, help="of people and faults; a new one by default")
    return parser.parse_args()


async def _sampling(on: Stage, result: Result, began: float, over: asyncio.Event) -> None:
    while not over.is_set():
        result.samples.append((time.monotonic() - began, await sample(on)))
        await asyncio.sleep(_SAMPLE_SECONDS)


async def _pruning(on: Stage, over: asyncio.Event) -> None:
    """Have the ledger pruned every minute instead of every hour, so that a soak sees it become flat."""
    while not over.is_set():
        try:
            async with store(on.settings) as connection:
                await run_now(connection, "job.cleanup", actor=Actor("system"))
        except Exception as error:
            if not is_unavailable(error):
                raise
        await asyncio.sleep(_PRUNE_SECONDS)


async def soak(arguments: argparse.Namespace, say: Callable[[str], None]) -> Result:
    """Run it all and return what was found."""
    result = Result()
    minutes = arguments.minutes
    async with stage(keep_minutes=max(1.0, minutes / 6)) as on, session() as client:
        tenants = [await make_tenant(on.settings, invitations=True) for _ in range(2)]
        urls = [api.scim_url for api in on.fleet.apis]
        traffics = [
            Traffic(
                tenant,
                urls,
                client,
                result.told,
                seed=arguments.seed + number,
                rate=arguments.rate / len(tenants),
                keep=arguments.keep // len(tenants),
            )
            for number, tenant in enumerate(tenants)
        ]
        over, began = asyncio.Event(), time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for traffic in traffics:
                tasks.create_task(traffic.run(over))
            tasks.create_task(_sampling(on, result, began, over))
            tasks.create_task(_pruning(on, over))
            tasks.create_task(browsers.scrape(on, over))
            tasks.create_task(browsers.look(on, over))
            dice = Random(arguments.seed)  # noqa: S311  a plan that comes back
            faults = tasks.create_task(trouble(on, dice, over, say)) if arguments.faults else None
            for minute in range(int(minutes)):
                await asyncio.sleep(60.0)
                sent, deviating = result.told.sent.total(), result.told.deviating
                say(f"minute {minute + 1}: {sent:,} requests, {deviating} deviations")
            await asyncio.sleep(max(0.0, minutes * 60.0 - (time.monotonic() - began)))
            over.set()
        result.seconds = time.monotonic() - began
        result.happened = faults.result() if faults else Counter()
        say("the traffic is over; what waits is carried out, then everything is compared")
        await _settle(on, result)
        for traffic in traffics:
            await traffic.verify()
        result.violated = await invariants.violations(on, traffics)
        await _stop(on, result)
    if not arguments.faults and result.told.repeated:
        result.told.deviates(f"without a fault, requests were answered late or not: {dict(result.told.repeated)}")
    return result


async def _settle(on: Stage, result: Result) -> None:
    async def settled() -> bool:
        async with store(on.settings) as connection:
            return not await connection.fetchval(invariants.OPEN)

    try:
        await until(settled, "nothing waits any more", _DRAIN_SECONDS)
    except AssertionError as error:
        result.told.deviates(str(error))


async def _stop(on: Stage, result: Result) -> None:
    """Stop every process in order, and look through what they have logged."""
    for process in (*on.fleet.workers, *on.fleet.apis):
        if status := await process.stop():
            result.told.deviates(f"{process.log.stem} ended with status {status}")
        for line in process.log.read_text(errors="replace").splitlines():
            if '"level":"error"' in line or '"level":"critical"' in line:
                result.logged[line.partition('"action":"')[2].partition('"')[0] or line[:80]] += 1
            elif line.startswith("Traceback"):
                result.logged[line] += 1


def _show(result: Result, found: list[Slope], console: Console, *, judged: bool) -> None:
    table = Table(
        title=f"after the first {WARM_UP_SHARE:.0%} of {result.seconds / 60:.1f} minutes", title_justify="left"
    )
    for name in ("what", "first", "last", "most", "an hour", "at most", ""):
        table.add_column(name, justify="left" if name == "what" else "right")
    for one in found:
        verdict = "" if one.bound is None or not judged else "BEYOND" if one.beyond else "ok"
        bound = "" if one.bound is None else f"{one.bound:+,.0f}"
        numbers = (f"{number:,.1f}" for number in (one.first, one.last, one.most))
        table.add_row(one.name, *numbers, f"{one.per_hour:+,.1f}", bound, verdict)
    console.print(table)
    if not judged:
        console.print(f"Slopes are judged from {JUDGED_SECONDS / 60:.0f} minutes on (after the warm-up).")
    told = result.told
    ordered = sorted(told.seconds) or [0.0]
    times = ", ".join(f"p{share * 100:.0f} {percentile(ordered, share) * 1000:.0f} ms" for share in (0.5, 0.95, 0.99))
    console.print(f"{told.sent.total():,} requests ({times}): {_counted(told.sent)}")
    console.print(f"sent again: {_counted(told.repeated)}")
    console.print(f"faults: {_counted(result.happened)}")
    console.print(f"logged as errors: {_counted(result.logged)}")
    for what, rows in result.violated.items():
        console.print(f"{what}: {len(rows)}, such as {', '.join(rows[:_SHOWN])}", style="red")
    console.print("Every invariant holds." if not result.violated else f"{len(result.violated)} invariants are broken.")
    for text in told.deviations:
        console.print(f"deviation: {text}", style="red")
    console.print("No deviation." if not told.deviating else f"{told.deviating} deviations.")


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in counts.most_common()) or "none"


def main() -> int:
    """Run a soak, print its tables; exit status 1 on a deviation, a violation, or a slope beyond its bound."""
    arguments = _arguments()
    arguments.seed = secrets.randbelow(2**32) if arguments.seed is None else arguments.seed
    console = Console() if sys.stdout.isatty() else Console(width=120)
    errors = Console(stderr=True, highlight=False)
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    errors.print(f"seed {arguments.seed}")
    result = asyncio.run(soak(arguments, lambda text: errors.print(f"{time.strftime('%H:%M:%S')} {text}")))
    found = slopes(result.samples, BOUNDS)
    judged = result.seconds * (1 - WARM_UP_SHARE) >= JUDGED_SECONDS
    _show(result, found, console, judged=judged)
    beyond = judged and any(one.beyond for one in found)
    return int(bool(result.told.deviating or result.violated or beyond))


if __name__ == "__main__":
    sys.exit(main())
