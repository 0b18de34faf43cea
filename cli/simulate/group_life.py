"""The cycles of groups: created empty, then members come and go in many PATCHes (entra-wire.md §7 and §10)."""

from __future__ import annotations

import random
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

from cli.simulate import judge, judge_writes
from cli.simulate.changes import spoken
from cli.simulate.findings import json_object, meta_of, show
from cli.simulate.group_body import add_members, remove_members, rename
from cli.simulate.wire import WITHOUT_MEMBERS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from cli.simulate.changes import Doc, Spoken
    from cli.simulate.group_body import Group
    from cli.simulate.job import Job

_AT_ONCE = 250  # members in one PATCH
_ON_DEMAND = 5  # an on-demand run sends at most so many (entra-wire.md §7)
_SINGLES = 60  # concurrent PATCHes of one member each


async def appear(job: Job, group: Group) -> None:
    """Play a group's first cycle: match, create, and its members in PATCHes."""
    line, answer = await job.wire.groups("group: match", group.match)
    job.judge(line, judge.check_listed(answer, 0))
    line, answer = await job.wire.create("group: create", group.body(), "/Groups")
    doc, findings = json_object(answer, 201)
    if doc is not None:
        findings += judge_writes.check_group(doc, group.expected, members=())
        findings += judge.check_location(answer, doc)
    job.judge(line, findings)
    if doc is None or not isinstance(doc.get("id"), str):
        return
    group.id = doc["id"]
    job.directory.groups.append(group)
    job.report.happened["groups created"] += 1
    await find(job, group)
    if group.number % 5 == 0:
        again = {**group.body(), "displayName": group.display_name.swapcase()}
        line, answer = await job.wire.create("group: create twice", again, "/Groups")
        job.judge(line, judge.check_conflict(answer))
    await _gather(job, group, _wanted(job, group))


def _wanted(job: Job, group: Group) -> list[str]:
    """Choose members: everyone, a crowd for concurrent requests, or a few."""
    ids = [account.id for account in job.directory.accounts]
    if group.number == 0:
        return ids
    draw = random.Random(f"{job.report.seed}:group:{group.number}")  # noqa: S311 - repeatable, not secret
    return draw.sample(ids, min(len(ids), _SINGLES if group.number == 1 else draw.randrange(25)))


async def _gather(job: Job, group: Group, ids: list[str]) -> None:
    said = spoken(job.dialect, group.number)
    if group.number == 1:
        await _each_alone(job, group, ids, add=True)
    else:
        for part in in_parts(ids, _AT_ONCE if group.number == 0 else 1 + group.number % 10):
            await _patch_members(job, group, "add members", part, said, add=True)
    if ids:
        await _reference(job, group, ids[0])


def in_parts(ids: list[str], size: int) -> Iterator[list[str]]:
    """Yield ids in parts of at most ``size``."""
    return (ids[start : start + size] for start in range(0, len(ids), size))


async def find(job: Job, group: Group) -> None:
    """See that exactly this group is found, whatever the letter case, and without its members."""
    for kind, filter_ in ("group: match again", group.match), ("group: match other case", group.other_case):
        line, answer = await job.wire.groups(kind, filter_)
        findings = judge.check_listed(answer, 1)
        for doc in judge.listed(answer):
            findings += judge_writes.check_group(doc, group.expected | {"id": group.id}, members=None)
        job.judge(line, findings)


async def read(job: Job, group: Group, *, unchanged: bool = False) -> None:
    """Read a group without its members, as Entra does before it changes it."""
    line, answer = await job.wire.get("group: read", group.path(), WITHOUT_MEMBERS)
    doc, findings = json_object(answer, 200)
    if doc is not None:
        known, meta = group.expected | {"id": group.id}, group.meta if unchanged else None
        findings += judge_writes.check_group(doc, known, members=None, meta=meta) + judge.check_etag(answer, doc)
        group.meta = meta_of(doc)
    job.judge(line, findings)


async def patch(job: Job, kind: str, group: Group, operations: list[Doc]) -> bool:
    """Send a PATCH of a group that must be carried out; return whether it was."""
    line, answer = await job.wire.patch(kind, group.path(), operations)
    job.judge(f"{line} {show(operations)}", judge_writes.check_members_patched(answer))
    return answer.carried_out


async def _patch_members(job: Job, group: Group, kind: str, ids: Collection[str], said: Spoken, *, add: bool) -> None:
    operations = add_members(ids, said) if add else remove_members(ids, said)
    if await patch(job, kind, group, operations):
        (group.members.update if add else group.members.difference_update)(ids)
        job.report.happened["memberships added" if add else "memberships removed"] += len(ids)


async def _each_alone(job: Job, group: Group, ids: list[str], *, add: bool) -> None:
    """Change members in concurrent requests of one each; all of them must count (entra-cases.md 101)."""
    kind = "add one member" if add else "remove one member"

    async def change(each: str) -> None:
        # By the last digit of an id, so that both dialects meet on one group.
        said = spoken(job.dialect, ord(each[-1]))
        await _patch_members(job, group, kind, [each], said, add=add)

    await job.at_once(ids, change)


async def _reference(job: Job, group: Group, user_id: str) -> None:
    """Ask whether a user is a member already, the two terms in either order (entra-wire.md §3)."""
    for turn in range(2):
        terms = [f'id eq "{group.id}"', f'members eq "{user_id}"']
        if turn:
            terms.reverse()
        line, answer = await job.wire.references(" and ".join(terms))
        wanted = [group.id] if user_id in group.members else []
        job.judge(line, judge_writes.check_ids(answer, wanted, "groups with this member"))


async def live(job: Job, group: Group) -> None:
    """Play a group's later cycles: members come and go, another name, an end."""
    number = group.number
    said = spoken(job.dialect, number + 1)
    await read(job, group)
    present = sorted(group.members)
    leaving = present[:: 3 if number != 1 else 2]
    if number == 1:
        await _each_alone(job, group, leaving, add=False)
    else:
        for part in in_parts(leaving, _AT_ONCE):
            await _patch_members(job, group, "remove members", part, said, add=False)
    if leaving:
        await _reference(job, group, leaving[0])
        # Back again, one of them twice in a row: an existing member is no error (entra-cases.md 97).
        back = leaving[: 1 + len(leaving) // 2]
        await _patch_members(job, group, "add members", back, said, add=True)
        await _patch_members(job, group, "add members", back[:1], said, add=True)
        # Who is no member is removed without an error, and nobody else with them (entra-cases.md 93, 97).
        gone = leaving[len(back) :][:1] or [str(uuid.uuid4())]
        await _patch_members(job, group, "remove members", gone, said, add=False)
    if number % 3 == 2:
        await _unknown_member(job, group, present, said)
    if number % 4 == 1:
        await _rename(job, group, said)
    if number % 4 == 2:
        await _rename_to_taken(job, group, said)
    if number % 6 == 4:
        await _on_demand(job, group)
    if number % 10 == 7:
        await _delete(job, group, anew=number % 20 == 7)


async def _unknown_member(job: Job, group: Group, present: list[str], said: Spoken) -> None:
    """An id that is nobody's among known ones: 400 that names it, and nothing happens (entra-cases.md 98, 99)."""
    stranger = str(uuid.uuid4())
    outside = [account.id for account in job.directory.accounts if account.id not in group.members][:1]
    operations = remove_members(present[:1], said) if present else []
    operations += add_members([*outside, stranger], said)
    line, answer = await job.wire.patch("unknown member", group.path(), operations)
    job.judge(f"{line} {show(operations)}", judge.check_error(answer, 400, "invalidValue", names=stranger))
    for each in (*outside, *present[:1]):
        await _reference(job, group, each)


async def _rename(job: Job, group: Group, said: Spoken) -> None:
    """Another name, of the object without a path too: members stay (entra-wire.md §7)."""
    old, name = group.match, f"{group.display_name} (was)"
    if await patch(job, "group: rename", group, rename(name, said, whole=group.number % 8 == 1)):
        group.display_name = name
        job.report.happened["groups renamed"] += 1
    line, answer = await job.wire.groups("group: match", old)
    job.judge(line, judge.check_listed(answer, 0))
    await find(job, group)


async def _rename_to_taken(job: Job, group: Group, said: Spoken) -> None:
    """A name that another group has: 409, and no member goes that was to go with it (entra-cases.md 75, 106)."""
    other = min(job.directory.groups, key=lambda each: each.number)
    if other is group:
        return
    leaving = sorted(group.members)[:1]
    operations = [*(remove_members(leaving, said) if leaving else ()), *rename(other.display_name, said, whole=False)]
    line, answer = await job.wire.patch("group: rename to a taken name", group.path(), operations)
    job.judge(f"{line} {show(operations)}", judge.check_conflict(answer))
    await read(job, group)


async def _on_demand(job: Job, group: Group) -> None:
    """An on-demand run in the middle: a probe, a match, and at most five members in the legacy dialect."""
    line, answer = await job.wire.groups("probe", f'displayName eq "{uuid.uuid4()}"')
    job.judge(line, judge.check_listed(answer, 0))
    await find(job, group)
    ids = [account.id for account in job.directory.accounts[-_ON_DEMAND:]]
    await _patch_members(job, group, "on demand: add members", ids, "legacy", add=True)
    job.report.happened["on-demand runs"] += 1


async def _delete(job: Job, group: Group, *, anew: bool) -> None:
    """Delete a group: its members stay users, its name is free (entra-cases.md 106, 112)."""
    line, answer = await job.wire.delete("group: delete", group.path())
    job.judge(line, judge_writes.check_deleted(answer))
    if not answer.carried_out:
        return
    job.directory.groups.remove(group)
    job.directory.gone_groups.append(replace(group, members=set()))
    job.report.happened["groups deleted"] += 1
    line, answer = await job.wire.delete("group: delete again", group.path())
    job.judge(line, judge.check_error(answer, 404))
    line, answer = await job.wire.get("group: read deleted", group.path(), WITHOUT_MEMBERS)
    job.judge(line, judge.check_error(answer, 404))
    line, answer = await job.wire.groups("group: match", group.match)
    job.judge(line, judge.check_listed(answer, 0))
    if anew:
        group.id, group.members = "", set()
        await appear(job, group)
