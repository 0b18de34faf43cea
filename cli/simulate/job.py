"""Entra's provisioning job: what it has brought over, and how it speaks to the server."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from cli.simulate import judge, judge_writes
from cli.simulate.body import ENTERPRISE, Match
from cli.simulate.changes import value_at
from cli.simulate.findings import json_object, meta_of, show
from cli.simulate.wire import user_path

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from cli.simulate.body import Create, Dialect
    from cli.simulate.changes import Doc
    from cli.simulate.findings import Finding
    from cli.simulate.group_body import Group
    from cli.simulate.report import Report
    from cli.simulate.wire import Wire

    OnPhase = Callable[[str, int], Callable[[], None]]

Item = TypeVar("Item")


@dataclass(slots=True, eq=False)
class Account:
    """A user as the simulation knows it.

    Attributes:
        create: how it was created.
        id: the server's.
        expected: what the resource must hold beside ``id`` and ``meta``.
        meta: as last answered; empty when that is not known.
    """

    create: Create
    id: str
    expected: Doc
    meta: Doc

    @classmethod
    def of(cls, create: Create, resource: Doc) -> Account:
        """Return the account that a create has made."""
        return cls(create, resource["id"], create.expected, meta_of(resource))

    @property
    def number(self) -> int:
        """The person's place in the directory."""
        return self.create.person.number

    @property
    def path(self) -> str:
        """The address below the Tenant URL."""
        return user_path(self.id)

    @property
    def user_name(self) -> str:
        """The userName that the server must know."""
        name: str = self.expected["userName"]
        return name

    @property
    def match(self) -> Match:
        """How Entra looks for the user now."""
        path, case_exact = self.create.match.path, self.create.match.case_exact
        return Match(path, value_at(self.expected, path), case_exact)

    @property
    def manager(self) -> str | None:
        """The manager's id."""
        found: str | None = self.expected.get(ENTERPRISE, {}).get("manager", {}).get("value")
        return found


@dataclass(slots=True)
class Directory:
    """What must be on the server when all is said and done.

    Attributes:
        accounts: users that are there.
        gone: users that were deleted.
        groups: groups that are there.
        gone_groups: groups that were deleted, each with the id that it had.
    """

    accounts: list[Account] = field(default_factory=list)
    gone: list[Account] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    gone_groups: list[Group] = field(default_factory=list)

    def groups_of(self, user_id: str) -> set[str]:
        """Return the ids of the groups that a user is a member of."""
        return {group.id for group in self.groups if user_id in group.members}


@dataclass(frozen=True, slots=True)
class Job:
    """A provisioning job at work."""

    wire: Wire
    report: Report
    dialect: Dialect
    directory: Directory
    on_phase: OnPhase

    def judge(self, request: str, findings: Iterable[Finding]) -> bool:
        """Keep what is found about an answer; return whether it was right."""
        found = list(findings)
        self.report.deviates(request, found)
        return not found

    async def each(self, phase: str, items: Sequence[Item], work: Callable[[Item], Awaitable[None]]) -> None:
        """Do the work of a phase for all items, and say how far it has come."""
        done = self.on_phase(phase, len(items))

        async def and_count(item: Item) -> None:
            await work(item)
            done()

        await self.at_once(items, and_count)

    async def at_once(self, items: Sequence[Item], work: Callable[[Item], Awaitable[None]]) -> None:
        """Do some work for all items, for as many at once as there are connections."""
        waiting = iter(items)

        async def take(waiting: Iterator[Item]) -> None:
            for item in waiting:  # shared: each task takes the next one
                await work(item)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(self.report.concurrency):
                tasks.create_task(take(waiting))

    def check_account(self, doc: Doc, account: Account) -> list[Finding]:
        """Check a user that came, whose groups must be named."""
        groups = self.directory.groups_of(account.id)
        return judge_writes.check_user(
            doc, account.expected | {"id": account.id}, account.create.optional, account.meta, groups
        )

    async def read(self, kind: str, account: Account) -> bool:
        """Read a user by id and check it; return whether it could be read."""
        line, answer = await self.wire.get(kind, account.path)
        doc, findings = json_object(answer, 200)
        if doc is not None:
            findings += self.check_account(doc, account) + judge.check_etag(answer, doc)
            account.meta = meta_of(doc)
        self.judge(line, findings)
        return doc is not None

    async def patch(self, kind: str, account: Account, operations: list[Doc], after: Doc) -> None:
        """Send a PATCH that leads to ``after`` and check what comes; ``after`` is expected once it is carried out."""
        changes, before = account.expected != after, account.meta
        line, answer = await self.wire.patch(kind, account.path, operations)
        findings = judge_writes.check_patched(answer, before, changes=changes)
        account.meta = {}
        if answer.carried_out:
            account.expected = after
        if answer.status == 200 and isinstance(answer.body, dict):
            # Groups may be left out of this answer; what is in it must be right.
            groups = self.directory.groups_of(account.id) if "groups" in answer.body else None
            known = after | {"id": account.id}
            findings += judge_writes.check_user(answer.body, known, account.create.optional, {}, groups)
            account.meta = meta_of(answer.body)
        self.judge(f"{line} {show(operations)}", findings)
        if not account.meta:
            await self.read("read after", account)

    async def expect_none(self, kind: str, filter_: str) -> None:
        """See that no user matches."""
        line, answer = await self.wire.users(kind, filter_)
        self.judge(line, judge.check_listed(answer, 0))

    async def find(self, kind: str, account: Account) -> None:
        """See that the user is found by its matching attribute, as it is known."""
        line, answer = await self.wire.users(kind, account.match.filter)
        findings = judge.check_listed(answer, 1)
        for doc in judge.listed(answer):
            findings += self.check_account(doc, account)
        self.judge(line, findings)
