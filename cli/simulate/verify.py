"""The end of a run: the whole directory is read, in every way, and compared with what must be in it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from cli.simulate import judge, judge_writes
from cli.simulate.findings import Finding, json_object, show
from cli.simulate.wire import WITHOUT_MEMBERS, encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cli.simulate.changes import Doc
    from cli.simulate.group_body import Group
    from cli.simulate.job import Account, Job

_PAGE = 100


async def pages(job: Job, path: str, query: str = "") -> AsyncIterator[tuple[str, Doc]]:
    """Yield every resource of a list, page by page, and the request that brought it (entra-wire.md §3)."""
    start, total = 1, 1
    while start <= total:
        line, answer = await job.wire.get("page", path, f"startIndex={start}&count={_PAGE}{query}")
        found = judge.listed(answer)
        job.judge(line, judge.check_page(answer, start))
        doc = answer.body
        if not found or not isinstance(doc, dict) or not isinstance(doc.get("totalResults"), int):
            return
        for resource in found:
            yield line, resource
        start, total = start + len(found), doc["totalResults"]


async def users_by_page(job: Job) -> None:
    """Page through all users: each of ours once and as it must be, none of the deleted; others are not our business."""
    ours = {account.id: account for account in job.directory.accounts}
    seen: Counter[str] = Counter()
    async for line, doc in pages(job, "/Users"):
        seen[str(doc.get("id"))] += 1
        if account := ours.get(str(doc.get("id"))):
            job.judge(line, job.check_account(doc, account))
    _judge_seen(job, "GET /Users, page by page", seen, set(ours), {account.id for account in job.directory.gone})


async def groups_by_page(job: Job) -> None:
    """Page through all groups without their members."""
    ours = {group.id: group for group in job.directory.groups}
    seen: Counter[str] = Counter()
    async for line, doc in pages(job, "/Groups", f"&{WITHOUT_MEMBERS}"):
        seen[str(doc.get("id"))] += 1
        if group := ours.get(str(doc.get("id"))):
            job.judge(line, judge_writes.check_group(doc, group.expected | {"id": group.id}, members=None))
    _judge_seen(job, "GET /Groups, page by page", seen, set(ours), {group.id for group in job.directory.gone_groups})


def _judge_seen(job: Job, request: str, seen: Counter[str], ours: set[str], gone: set[str]) -> None:
    found = [Finding(f"{show(each)} on one page", "on none") for each in sorted(ours - seen.keys())]
    found += [Finding(f"{show(each)} on no page: deleted", "on one") for each in sorted(gone & seen.keys())]
    found += [Finding(f"{show(each)} on one page", f"on {times}") for each, times in seen.items() if times > 1]
    job.judge(request, found)


async def user_by_id(job: Job, account: Account) -> None:
    """Read one user, and ask which groups have it as a member."""
    await job.read("verify: read", account)
    if not job.report.groups:
        return
    asked = f'members eq "{account.id}"'
    query = f"&{WITHOUT_MEMBERS}&filter={encode(asked)}"
    named = [str(doc.get("id")) async for _, doc in pages(job, "/Groups", query)]
    wanted = sorted(job.directory.groups_of(account.id))
    if sorted(named) != wanted:
        job.judge(f"GET /Groups?{query[1:]}", [Finding(f"the groups {show(wanted)}", show(sorted(named)))])


async def user_is_gone(job: Job, account: Account) -> None:
    """See that a deleted user cannot be read."""
    line, answer = await job.wire.read("verify: deleted", account.id)
    job.judge(line, judge.check_error(answer, 404))


async def group_by_id(job: Job, group: Group) -> None:
    """Read one group with all of its members."""
    line, answer = await job.wire.get("verify: group", group.path())
    doc, findings = json_object(answer, 200)
    if doc is not None:
        findings += judge_writes.check_group(doc, group.expected | {"id": group.id}, members=group.members)
    job.judge(line, findings)
