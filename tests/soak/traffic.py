"""What a soak's tenant does all the time: users come, are matched, changed, disabled, put into groups, and go.

It speaks as `usher simulate` does and judges by its rules. A request whose answer was lost is sent again, as Entra
sends it; what an answer may then say is what a repeated request may be told.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import orjson
from yarl import URL

from cli.simulate import judge, judge_writes
from cli.simulate.body import compose
from cli.simulate.changes import Change, changed, operations, patch, spoken
from cli.simulate.findings import Answer, Finding, json_object
from cli.simulate.group_body import add_members, groups, remove_members
from cli.simulate.job import Account
from cli.simulate.people import people
from cli.simulate.wire import encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cli.simulate.changes import Doc
    from cli.simulate.group_body import Group
    from cli.simulate.people import Person
    from tests.support.api import Tenant

_ANSWER_SECONDS: Final = 30.0
_PATIENCE_SECONDS: Final = 120.0
"""After so long without an answer that decides, it is one that does not come."""
_FIRST_WAIT_SECONDS: Final = 0.25
_LONGEST_WAIT_SECONDS: Final = 4.0
_BUSY: Final = frozenset({429, 503})
_SLOTS: Final = 8
_GROUPS: Final = 5
_MOST_TOLD: Final = 50


@dataclass(slots=True)
class Findings:
    """What a soak has to tell of its requests."""

    sent: Counter[str] = field(default_factory=Counter)
    """By kind of request."""
    repeated: Counter[str] = field(default_factory=Counter)
    """By why a request was sent again."""
    seconds: list[float] = field(default_factory=list)
    """How long each request took that was answered."""
    deviations: list[str] = field(default_factory=list)
    deviating: int = 0

    def judge(self, line: str, findings: Sequence[Finding]) -> None:
        """Take what was found about the answer to a request."""
        for finding in findings:
            self.deviates(f"{line}: {finding.expected}, came {finding.came}")

    def deviates(self, text: str) -> None:
        """Take something that is not as it must be; only the first are kept in words."""
        self.deviating += 1
        if self.deviating <= _MOST_TOLD:
            self.deviations.append(text)


class Line:
    """A tenant's connection to the application, which is several processes behind one address."""

    def __init__(self, urls: Sequence[str], token: str, session: aiohttp.ClientSession, told: Findings) -> None:
        self._urls = urls
        self._headers = {"Authorization": f"Bearer {token}"}
        self._session = session
        self._told = told
        self._turn = 0

    async def send(
        self, kind: str, method: str, path: str, *, query: str | None = None, body: Doc | None = None
    ) -> tuple[Answer, bool]:
        """Send a request until it is answered; return the answer, and whether an earlier try may have worked."""
        self._told.sent[kind] += 1
        doubtful, wait = False, _FIRST_WAIT_SECONDS
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            answer = await self._once(method, path, query, body)
            if (answer.status is not None and answer.status not in _BUSY) or time.monotonic() > deadline:
                return answer, doubtful
            self._told.repeated[answer.failure if answer.status is None else str(answer.status)] += 1
            doubtful = True
            await asyncio.sleep(wait)
            wait = min(wait * 2, _LONGEST_WAIT_SECONDS)

    async def _once(self, method: str, path: str, query: str | None, body: Doc | None) -> Answer:
        self._turn += 1
        url = URL(f"{self._urls[self._turn % len(self._urls)]}{path}{f'?{query}' if query else ''}", encoded=True)
        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = "application/scim+json; charset=utf-8"
        data = None if body is None else orjson.dumps(body)
        began = time.perf_counter()
        try:
            async with self._session.request(method, url, data=data, headers=headers) as came:
                raw = await came.read()
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            return Answer(None, {}, failure=type(error).__name__)
        self._told.seconds.append(time.perf_counter() - began)
        return Answer(came.status, {name.lower(): value for name, value in came.headers.items()}, raw)


@dataclass(slots=True)
class Member:
    """A user that is there, and the group that it is in."""

    account: Account
    group: Group | None = None

    @property
    def groups(self) -> list[str]:
        """The ids that its `groups` must name."""
        return [] if self.group is None else [self.group.id]


class Traffic:
    """One tenant's users, a few new ones a second, and never more than so many at once."""

    def __init__(
        self,
        tenant: Tenant,
        urls: Sequence[str],
        session: aiohttp.ClientSession,
        told: Findings,
        *,
        seed: int,
        rate: float,
        keep: int,
    ) -> None:
        """Take whose traffic it is, and how much.

        Args:
            tenant: whose.
            urls: the SCIM addresses of every api.
            session: without a limit of connections.
            told: where all is told.
            seed: of the people.
            rate: new users a second.
            keep: users that are there at once; beyond it the oldest goes.
        """
        self.tenant = tenant
        self._line = Line(urls, tenant.token, session, told)
        self._told = told
        self._people = people(seed, 10**9)
        self._groups = groups(seed, _GROUPS)
        self._pause = 1 / rate
        self._next = time.monotonic()
        self._keep = keep
        self.members: deque[Member] = deque()
        self.gone: set[str] = set()

    async def run(self, over: asyncio.Event) -> None:
        """Go on until it is over."""
        for group in self._groups:
            answer, _ = await self._line.send("create a group", "POST", "/Groups", body=group.body())
            doc, findings = json_object(answer, 201)
            self._told.judge("POST /Groups", findings)
            group.id = str((doc or {}).get("id"))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_SLOTS):
                tasks.create_task(self._slot(over))

    async def _slot(self, over: asyncio.Event) -> None:
        while not over.is_set():
            now = time.monotonic()
            self._next = max(self._next, now - 1.0) + self._pause  # what was missed during a fault is not made up for
            await asyncio.sleep(max(0.0, self._next - now))
            await self._live(next(self._people))
            while len(self.members) > self._keep:
                await self._leave(self.members.popleft())

    async def _live(self, person: Person) -> None:
        member = await self._appear(person)
        if member is None:
            return
        account, number, said = member.account, person.number, spoken("mixed", person.number)
        await self._find(account, 1)
        await self._change(member, [Change("displayName", f"Changed {number}"), Change("title", "Buyer")])
        if number % 2:
            group = self._groups[number % _GROUPS]
            await self._patch_members(group, add_members([account.id], said))
            group.members.add(account.id)
            member.group = group
        if number % 3 == 0:
            await self._change(member, [Change("active", value=False)])
        if number % 6 == 0:
            await self._change(member, [Change("active", value=True)])
        await self.check(member)
        self.members.append(member)

    async def _appear(self, person: Person) -> Member | None:
        create = compose(person, "mixed")
        query = f"filter={encode(create.match.filter)}"
        answer, _ = await self._line.send("match nobody", "GET", "/Users", query=query)
        self._told.judge(f"GET /Users?{query}", judge.check_listed(answer, 0))
        answer, doubtful = await self._line.send("create", "POST", "/Users", body=create.body)
        if doubtful and answer.status == 409:  # the try whose answer was lost had its effect
            answer, _ = await self._line.send("match", "GET", "/Users", query=query)
            self._told.judge(f"GET /Users?{query}", judge.check_listed(answer, 1))
            found = judge.listed(answer)
            doc: Any = found[0] if found else None
        else:
            self._told.judge("POST /Users", judge.check_created(answer, create.expected, create.optional))
            doc = answer.body
        if not (isinstance(doc, dict) and isinstance(doc.get("id"), str)):
            self._told.deviates(f"POST /Users of {person.number} made nobody: {answer.status} {answer.failure}")
            return None
        if person.number % 10 == 3:
            answer, _ = await self._line.send("create twice", "POST", "/Users", body=create.in_other_case())
            self._told.judge("POST /Users again", judge.check_conflict(answer))
        return Member(Account.of(create, doc))

    async def _find(self, account: Account, count: int) -> None:
        query = f"filter={encode(account.match.filter)}"
        answer, _ = await self._line.send("match", "GET", "/Users", query=query)
        self._told.judge(f"GET /Users?{query}", judge.check_listed(answer, count))

    async def _change(self, member: Member, changes: list[Change]) -> None:
        account = member.account
        sent = operations(changes, account.expected, spoken("mixed", account.number))
        account.expected = changed(account.expected, changes)
        answer, _ = await self._line.send("change", "PATCH", account.path, body=patch(sent))
        if answer.status == 204:
            return
        doc, findings = json_object(answer, 200)
        self._told.judge(f"PATCH {account.path}", findings)
        if doc is not None:
            self._judge(member, doc, f"PATCH {account.path}")

    def _judge(self, member: Member, doc: Doc, line: str) -> None:
        account = member.account
        expected = {**account.expected, "id": account.id}
        self._told.judge(line, judge_writes.check_user(doc, expected, account.create.optional, {}, member.groups))

    async def check(self, member: Member) -> None:
        """Read a user and hold it to what it must be."""
        answer, _ = await self._line.send("read", "GET", member.account.path)
        doc, findings = json_object(answer, 200)
        self._told.judge(f"GET {member.account.path}", findings)
        if doc is not None:
            self._judge(member, doc, f"GET {member.account.path}")

    async def _patch_members(self, group: Group, sent: list[Doc]) -> None:
        answer, _ = await self._line.send("members", "PATCH", group.path(), body=patch(sent))
        self._told.judge(f"PATCH {group.path()}", judge_writes.check_members_patched(answer))

    async def _leave(self, member: Member) -> None:
        await self.check(member)
        account, group = member.account, member.group
        if group is not None:
            if account.number % 4 == 1:  # the others leave their group by being deleted
                await self._patch_members(group, remove_members([account.id], spoken("mixed", account.number)))
            group.members.discard(account.id)
        answer, doubtful = await self._line.send("delete", "DELETE", account.path)
        if not (doubtful and answer.status == 404):
            self._told.judge(f"DELETE {account.path}", judge_writes.check_deleted(answer))
        self.gone.add(account.id)
        answer, _ = await self._line.send("read nobody", "GET", account.path)
        self._told.judge(f"GET {account.path}", judge.check_error(answer, 404))
        await self._find(account, 0)

    async def verify(self) -> None:
        """Hold the whole directory to what it must be, when nothing changes any more."""
        for member in self.members:
            await self.check(member)
        answer, _ = await self._line.send("count", "GET", "/Users", query="count=1&attributes=id")
        total = (answer.body or {}).get("totalResults")
        if total != len(self.members):
            self._told.deviates(f"{total} users are listed, {len(self.members)} are there")
        for group in self._groups:
            answer, _ = await self._line.send("read a group", "GET", group.path())
            doc, findings = json_object(answer, 200)
            self._told.judge(f"GET {group.path()}", findings)
            if doc is not None:
                wanted = {**group.expected, "schemas": doc.get("schemas")}
                self._told.judge(f"GET {group.path()}", judge_writes.check_group(doc, wanted, members=group.members))


def session() -> aiohttp.ClientSession:
    """Return a session for the traffic of every tenant."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=_ANSWER_SECONDS, sock_connect=10),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        cookie_jar=aiohttp.DummyCookieJar(),
    )
