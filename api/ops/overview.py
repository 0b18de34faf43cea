"""/ops: how every queue stands, who works on it, whose work is oldest, and what the last hour and day were like."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from aiohttp import web

from api.keys import PAGES_POOL
from api.pages.guard import allowed
from api.pages.live import live_page, shared
from api.pages.render import fragment, page
from api.probes import PROBES
from models.jobs import KINDS
from models.overview import Backlog, Share, backlog, not_paused, oldest_tenants, relay_lag
from models.pauses import list_pauses
from models.processes import Process, list_processes
from models.statistics import Series, Times, series, times

_TEMPLATE = "ops/overview.html"
_REGIONS = ("health", "queues", "tenants", "charts")
_HOUR_SECONDS = 3600
_SPARK_STEP = 5  # minutes summed to a point of a row's line
_FIRST_SECONDS = 0.3  # that the first page of a process waits for the servers behind it
_LATE_LAG_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class _Chart:
    """Lines over time, as the template and `charts.js` draw them."""

    title: str
    unit: str
    at: list[int]
    lines: dict[str, list[int]]

    @property
    def data(self) -> str:
        """What the script draws, as JSON."""
        return orjson.dumps(
            {"at": self.at, "lines": [{"label": label, "values": values} for label, values in self.lines.items()]}
        ).decode()

    @property
    def summary(self) -> str:
        """The chart in a sentence."""
        if not any(any(values) for values in self.lines.values()):
            return "None."
        sums = [f"{sum(values):,} {label}" for label, values in self.lines.items() if any(values)]
        totals = [sum(values) for values in zip(*self.lines.values(), strict=True)]
        top = max(range(len(totals)), key=totals.__getitem__)
        when = datetime.fromtimestamp(self.at[top], UTC).strftime("%H:%M")
        return f"{', '.join(sums)}; most at {when} UTC: {totals[top]:,} {self.unit}."

    @property
    def rows(self) -> list[tuple[datetime, list[int]]]:
        """The steps in which something happened, newest first, with a number a line."""
        found = [
            (datetime.fromtimestamp(at, UTC), [values[place] for values in self.lines.values()])
            for place, at in enumerate(self.at)
        ]
        return [row for row in reversed(found) if any(row[1])]


@dataclass(frozen=True, slots=True)
class _Row:
    """A kind of job in the table of queues."""

    backlog: Backlog
    times: Times
    done: list[int]
    done_hour: int
    failed_hour: int
    pauses: list[dict[str, Any]]


def _charts(hour: Series, day: Series) -> list[_Chart]:
    # The same kinds in the same order everywhere, so that a line looks the same in every chart.
    kinds = [kind for kind in dict.fromkeys([*KINDS, *day.done]) if kind in day.done]

    def lines(values: dict[str, list[int]], at: list[int]) -> dict[str, list[int]]:
        return {kind: values.get(kind, [0] * len(at)) for kind in kinds}

    return [
        _Chart("Jobs done, last hour", "a minute", hour.at, lines(hour.done, hour.at)),
        _Chart("Attempts failed, last hour", "a minute", hour.at, lines(hour.failed, hour.at)),
        _Chart("Jobs done, last day", "in 15 minutes", day.at, lines(day.done, day.at)),
        _Chart("Attempts failed, last day", "in 15 minutes", day.at, lines(day.failed, day.at)),
    ]


def _row(one: Backlog, measured: dict[str, Times], hour: Series, pauses: list[dict[str, Any]]) -> _Row:
    done = hour.done.get(one.kind, [0] * len(hour.at))
    return _Row(
        one,
        measured.get(one.kind, Times()),
        [sum(done[place : place + _SPARK_STEP]) for place in range(0, len(done), _SPARK_STEP)],
        sum(done),
        sum(hour.failed.get(one.kind, [])),
        [pause for pause in pauses if pause["kind"] in (None, one.kind)],
    )


async def _ledger(request: web.Request) -> tuple[list[Backlog], list[Share], list[dict[str, Any]], list[Process]]:
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        return (
            await backlog(connection),
            await oldest_tenants(connection),
            await list_pauses(connection),
            await list_processes(connection),
        )


async def _history(request: web.Request) -> tuple[dict[str, Times], Series, Series]:
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        return (
            await times(connection, seconds=_HOUR_SECONDS),
            await series(connection, hours=1, step_seconds=60),
            await series(connection, hours=24, step_seconds=900),
        )


def _workers(processes: list[Process]) -> dict[str, int]:
    workers = [one for one in processes if one.role == "worker"]
    working = [one for one in workers if one.state == "working"]
    return {
        "working": len(working),
        "quiet": sum(one.state == "quiet" for one in workers),
        "silent": sum(one.state == "silent" for one in workers),
        "busy": sum(one.busy for one in working),
        "slots": sum(one.slots for one in working),
        "apis": sum(one.role == "api" and one.state == "working" for one in processes),
    }


async def _values(request: web.Request) -> dict[str, Any]:
    backlogs, shares, pauses, processes = await shared(
        request, "overview ledger", lambda: _ledger(request), seconds=1.5
    )
    measured, hour, day = await shared(request, "overview history", lambda: _history(request), seconds=10.0)
    probes = request.config_dict[PROBES]
    lag = relay_lag(not_paused(shares, pauses), probes.rings, processes)
    return {
        "probes": await probes.settled(_FIRST_SECONDS),
        "workers": _workers(processes),
        "lag": lag,
        "lag_late": lag > _LATE_LAG_SECONDS,
        "rows": [_row(one, measured, hour, pauses) for one in backlogs],
        "minutes": [
            time.strftime("%H:%M", time.gmtime(hour.at[place])) for place in range(0, len(hour.at), _SPARK_STEP)
        ],
        "shares": shares,
        "charts": _charts(hour, day),
    }


async def _regions(request: web.Request) -> dict[str, str]:
    values = await _values(request)
    return {name: await fragment(request, _TEMPLATE, name, **values) for name in _REGIONS}


@allowed("view_jobs")
async def overview(request: web.Request) -> web.StreamResponse:
    """Show how everything stands."""
    if "live" in request.query:
        return await live_page(request, lambda: _regions(request))
    return await page(request, _TEMPLATE, title="Overview", **await _values(request))


def routes() -> list[web.AbstractRouteDef]:
    """Return the routes of this module."""
    return [web.get("/ops", overview)]
