"""The life of a whole tenant: first cycle, later cycles, restart, and a look at everything at the end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from cli.simulate import group_life, restart, user_life, verify
from cli.simulate.cycle import Cycle
from cli.simulate.group_body import groups
from cli.simulate.job import Account, Directory, Job
from cli.simulate.people import people

if TYPE_CHECKING:
    from cli.simulate.body import Dialect
    from cli.simulate.group_body import Group
    from cli.simulate.job import OnPhase
    from cli.simulate.report import Report
    from cli.simulate.wire import Wire

Item = TypeVar("Item")
Work = Callable[[Job, Item], Awaitable[None]]


async def run(wire: Wire, report: Report, dialect: Dialect, on_phase: OnPhase) -> None:
    """Play Entra: the first cycle of users and, when the report asks for groups, all that comes after it.

    Args:
        wire: opened.
        report: says how many users and groups, of which seed; takes all that is found.
        dialect: of the PATCHes; on-demand runs speak the legacy one in any case.
        on_phase: called with the name of each phase and the number of its items; returns what to call after each.

    Raises:
        UsageError: nothing can be reached there, the token is refused, or (with groups) users of this seed are there.
    """
    directory = Directory()
    whole = report.groups > 0
    done = on_phase("users", report.users)
    keep = (lambda create, doc: directory.accounts.append(Account.of(create, doc))) if whole else None
    cycle = Cycle(wire, report, dialect, done, keep)
    reached = await cycle.run(people(report.seed, report.users), report.concurrency)
    if not (whole and reached):
        return
    directory.accounts.sort(key=lambda account: account.number)
    job = Job(wire, report, dialect, directory, on_phase)

    async def each_account(phase: str, work: Work[Account]) -> None:
        await job.each(phase, list(directory.accounts), lambda account: work(job, account))

    async def each_group(phase: str, work: Work[Group]) -> None:
        await job.each(phase, list(directory.groups), lambda group: work(job, group))

    # Users come before groups, memberships after both (entra-wire.md §10).
    await job.each("groups", groups(report.seed, report.groups), lambda group: group_life.appear(job, group))
    await each_account("changes of users", user_life.live)
    await each_group("changes of groups", group_life.live)
    await each_account("restart: users", restart.match_user_again)
    await each_group("restart: groups", restart.match_group_again)
    await verify.users_by_page(job)
    await verify.groups_by_page(job)
    await each_account("verify: users", verify.user_by_id)
    await each_group("verify: groups", verify.group_by_id)
    await job.each("verify: deleted", list(directory.gone), lambda account: verify.user_is_gone(job, account))
