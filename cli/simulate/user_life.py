"""The incremental cycles of users: what becomes of each is decided by its number (entra-wire.md §5, §6 and §10)."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from cli.simulate import judge, judge_writes
from cli.simulate.body import ENTERPRISE
from cli.simulate.changes import (
    Change,
    changed,
    manager_operation,
    operations,
    role_operation,
    spoken,
    with_manager,
    with_role,
)
from cli.simulate.findings import Finding, show
from cli.simulate.job import Account, Job

if TYPE_CHECKING:
    from cli.simulate.changes import Doc, Spoken

Step = Callable[[Job, Account, "Spoken"], Awaitable[None]]

_WORK_MAIL = 'emails[type eq "work"].value'
_MANY = 7  # every so many people there is a manager


async def _change(job: Job, kind: str, account: Account, changes: list[Change], said: Spoken) -> None:
    after = changed(account.expected, changes)
    await job.patch(kind, account, operations(changes, account.expected, said), after)


async def _update(job: Job, account: Account, said: Spoken) -> None:
    """Another name and position, then once more the same (entra-cases.md 74)."""
    person = account.create.person
    changes = [
        Change("displayName", f"{person.given_name} Dvořáková-{person.number}"),
        Change("name.familyName", f"Dvořáková-{person.number}"),
        Change("title", "Head of Účetní"),
        Change(f"{ENTERPRISE}:department", "Legal & Compliance"),
        Change('phoneNumbers[type eq "mobile"].value', f"+420 {person.mobile}"),
        Change('addresses[type eq "work"].locality', "Łódź"),
    ]
    if person.mail and person.number % 8 == 1:
        changes.append(Change(_WORK_MAIL, f"dv.{person.mail}"))
    await _change(job, "update", account, changes, said)
    await _change(job, "update again", account, changes, said)
    # One attribute alone: in the compliant dialect it is sent by its path.
    await _change(job, "update", account, [Change("nickName", f"Ani {person.number}")], said)
    job.report.happened["updated"] += 1


async def _assign_role(job: Job, account: Account, said: Spoken) -> None:
    await job.patch("role", account, [role_operation("Auditor", said)], with_role(account.expected, "Auditor", said))


async def _have_manager(job: Job, account: Account, said: Spoken) -> None:
    """A manager is asked for before and after; later another one, and sometimes none."""
    bosses = [other for other in job.directory.accounts if other.number % _MANY == 0 and other is not account]
    if not bosses:
        return
    number = account.number
    boss, other = bosses[number % len(bosses)].id, bosses[(number + 1) % len(bosses)].id
    await _reference(job, account, boss, there=account.manager == boss)
    await _set_manager(job, account, boss, said)
    await _reference(job, account, boss, there=True)
    if number % 20 == 8:
        await _set_manager(job, account, other, said)
        await _reference(job, account, boss, there=other == boss)
    if number % 10 == 5:
        await _set_manager(job, account, None, said)
        await _reference(job, account, boss, there=False)
    if number % 10 == 4:
        stranger = str(uuid.uuid4())
        operation = manager_operation(stranger, account.expected, said, number)
        line, answer = await job.wire.patch("manager unknown", account.path, [operation])
        job.judge(f"{line} {operation}", judge.check_error(answer, 400, "invalidValue"))
        await job.read("read", account)
    job.report.happened["managers set"] += 1


async def _set_manager(job: Job, account: Account, manager: str | None, said: Spoken) -> None:
    operation = manager_operation(manager, account.expected, said, account.number // 10)
    await job.patch("manager", account, [operation], with_manager(account.expected, manager))


async def _reference(job: Job, account: Account, manager: str, *, there: bool) -> None:
    """Ask whether a manager is set already, the two terms in either order (entra-wire.md §3)."""
    terms = [f'id eq "{account.id}"', f'manager eq "{manager}"']
    if account.number % 2:
        terms.reverse()
    line, answer = await job.wire.users("reference check", " and ".join(terms), "&attributes=id")
    job.judge(line, judge_writes.check_ids(answer, [account.id] if there else [], "users with this manager"))


async def _disable(job: Job, account: Account, said: Spoken) -> None:
    await _change(job, "disable", account, [Change("active", value=False)], said)
    job.report.happened["disabled"] += 1


async def _enable(job: Job, account: Account, said: Spoken) -> None:
    await _change(job, "enable", account, [Change("active", value=True)], said)
    job.report.happened["enabled"] += 1


async def _on_demand(job: Job, account: Account, _: Spoken) -> None:
    """An on-demand run: a probe, a match, and straight the PATCH, always in the legacy dialect (§5.1 and §10)."""
    await job.expect_none("probe", f'userName eq "{uuid.uuid4()}"')
    await job.find("on demand: match", account)
    title = Change("title", f"On demand {account.number}")
    await _change(job, "on demand: update", account, [title, Change("active", account.expected["active"])], "legacy")
    job.report.happened["on-demand runs"] += 1


def _renamed(account: Account) -> str:
    return f"renamed.{account.user_name}" if account.number % 2 else account.user_name.swapcase()


async def _rename(job: Job, account: Account, said: Spoken) -> None:
    """Another userName, or the same in another letter case; the old one is nobody's then (entra-cases.md 81)."""
    old, new = account.user_name, _renamed(account)
    await _change(job, "rename", account, [Change("userName", new)], said)
    escaped = old.replace('"', '\\"')
    if account.number % 2:
        await job.expect_none("match", f'userName eq "{escaped}"')
    await job.find("match again", account)
    job.report.happened["renamed"] += 1


async def _rename_to_taken(job: Job, account: Account, said: Spoken) -> None:
    """A userName that is somebody else's: 409, and of what came with it nothing is applied (entra-cases.md 75, 81)."""
    taken = next(other for other in job.directory.accounts if other.number % _MANY == 0).user_name
    changes = [Change("title", "Never"), Change("userName", taken.swapcase())]
    sent = operations(changes, account.expected, said)
    line, answer = await job.wire.patch("rename to a taken name", account.path, sent)
    job.judge(f"{line} {show(sent)}", judge.check_conflict(answer))
    await job.read("read", account)


async def _leave(job: Job, account: Account, said: Spoken) -> None:
    """A soft delete with the name that Entra gives to the deleted, then one of: restore, delete, delete and create."""
    number, name = account.number, account.user_name
    tombstone = uuid.UUID(account.create.person.object_id).hex + name
    after = changed(account.expected, [Change("active", value=False)])
    sent = operations([Change("active", value=False), Change("userName", tombstone)], account.expected, said)
    await job.patch("soft delete", account, sent, after)  # the userName stays (entra-cases.md 115)
    await job.find("match again", account)
    job.report.happened["deleted softly"] += 1
    fate = number // 14 % 3
    if fate == 0:
        await _change(job, "restore", account, [Change("active", value=True), Change("userName", name)], said)
        job.report.happened["restored"] += 1
        return
    await _delete(job, account)
    if fate == 2:
        await _create_anew(job, account)


async def _delete(job: Job, account: Account) -> None:
    """Delete for good: 204, and after that it is 404 everywhere and found by nothing (entra-cases.md 116)."""
    line, answer = await job.wire.delete("delete", account.path)
    job.judge(line, judge_writes.check_deleted(answer))
    if not answer.carried_out:
        return
    directory = job.directory
    directory.accounts.remove(account)
    directory.gone.append(account)
    for group in directory.groups:
        group.members.discard(account.id)
    job.report.happened["deleted"] += 1
    line, answer = await job.wire.delete("delete again", account.path)
    job.judge(line, judge.check_error(answer, 404))
    line, answer = await job.wire.get("read deleted", account.path)
    job.judge(line, judge.check_error(answer, 404))
    sent: list[Doc] = [{"op": "Replace", "path": "active", "value": "False"}]
    line, answer = await job.wire.patch("update deleted", account.path, sent)
    job.judge(line, judge.check_error(answer, 404))
    await job.expect_none("match deleted", account.match.filter)


async def _create_anew(job: Job, account: Account) -> None:
    """The same person once more: another id (entra-cases.md 116)."""
    create = account.create
    line, answer = await job.wire.create("create anew", create.body)
    findings = judge.check_created(answer, create.expected, create.optional)
    if not job.judge(line, findings):
        return
    again = Account.of(create, answer.body)
    if again.id == account.id:
        job.judge(line, [Finding("another id than that of the deleted user", again.id)])
    job.directory.accounts.append(again)
    job.report.happened["created anew"] += 1
    await job.find("match again", again)


# What happens to whom: the rest that is left when the number is divided, and the step. Those whose number 7 divides
# are never deleted, so that they can be managers; 9 spares the first one, whose name others are refused.
_LIFE: tuple[tuple[int, int, Step], ...] = (
    (4, 1, _update),
    (5, 2, _assign_role),
    (10, 4, _have_manager),
    (10, 5, _have_manager),
    (10, 8, _have_manager),
    (8, 5, _disable),
    (16, 5, _enable),
    (6, 5, _on_demand),
    (9, 2, _rename),
    (9, 4, _rename_to_taken),
    (14, 9, _leave),
)


async def live(job: Job, account: Account) -> None:
    """Play a user's life after the create: updates, manager, disable, rename, delete."""
    if not await job.read("read", account):
        return
    for divisor, rest, step in _LIFE:
        if account.number % divisor == rest:
            await step(job, account, spoken(job.dialect, account.number // divisor))
