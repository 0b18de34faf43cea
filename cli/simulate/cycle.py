"""The order of Entra's requests: Test Connection, then per user match, create, match, read (entra-wire.md §10)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cli.simulate import judge
from cli.simulate.body import Create, Dialect, compose
from models.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cli.simulate.findings import Answer, Finding
    from cli.simulate.people import Person
    from cli.simulate.report import Report
    from cli.simulate.wire import Wire

Keep = Callable[[Create, dict[str, Any]], None]

_PROBES = (
    'userName eq "{}"',
    'userName eq "{}"',
    'externalId eq "{}"',
    'emails[type eq "work"].value eq "{}"',
)
_GROUP_PROBE = 'displayName eq "{}"'


class Cycle:
    """One initial cycle of Entra's provisioning job."""

    def __init__(
        self, wire: Wire, report: Report, dialect: Dialect, on_user: Callable[[], None], keep: Keep | None = None
    ) -> None:
        """Take where requests go, where findings go, the dialect, and what to call after each user.

        With ``keep``, which is given each user that was created, nobody may be there before.
        """
        self._wire = wire
        self._report = report
        self._dialect = dialect
        self._on_user = on_user
        self._keep = keep
        self._manager_id: str | None = None

    async def run(self, people: Iterator[Person], concurrency: int) -> bool:
        """Provision people, ``concurrency`` of them at once.

        Stops after Test Connection when a probe is not answered 200, as Entra does.

        Returns:
            Whether it went beyond Test Connection.

        Raises:
            UsageError: nothing can be reached there, the token is refused, or somebody is there who must not be.
        """
        if not await self._test_connection():
            return False
        await self._discover()
        # The first person is everyone's manager, so must be there before the others are sent.
        for person in people:
            self._manager_id = await self._provision(person)
            break
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(self._provision_all(people))
        return True

    async def _test_connection(self) -> bool:
        """Look for what cannot be there; return whether every probe was answered 200."""
        answered = True
        for probe in _PROBES:
            line, answer = await self._wire.users("probe", probe.format(uuid.uuid4()))
            if answer.status is None:
                raise UsageError(f"{self._report.url} cannot be reached: {answer.failure}.")
            if answer.status in (401, 403):
                raise UsageError(f"The token is refused: {line} answered {answer.status}.")
            self._judge(line, judge.check_listed(answer, 0))
            answered = answered and answer.status == 200
        return answered

    async def _discover(self) -> None:
        line, answer = await self._wire.get("discovery", "/ServiceProviderConfig")
        self._judge(line, judge.check_service_provider_config(answer, patch=self._keep is not None))
        line, answer = await self._wire.get("discovery", "/Schemas")
        self._judge(line, judge.check_schemas(answer))
        line, answer = await self._wire.get("discovery", "/ResourceTypes")
        self._judge(line, judge.check_resource_types(answer))
        if self._keep or any(item.get("endpoint") == "/Groups" for item in judge.listed(answer)):
            line, answer = await self._wire.groups("probe", _GROUP_PROBE.format(uuid.uuid4()))
            self._judge(line, judge.check_listed(answer, 0))

    async def _provision_all(self, people: Iterator[Person]) -> None:
        for person in people:  # the iterator is shared: each task takes the next one
            await self._provision(person)

    async def _provision(self, person: Person) -> str | None:
        """Bring one person over; return their id, or None when they did not arrive."""
        create = compose(person, self._dialect, self._manager_id)
        self._report.shapes[create.shape] += 1
        known = await self._match(create)
        if known is not None and self._keep is not None:
            raise UsageError(
                f"Users of seed {self._report.seed} are there already. A run with --groups changes and deletes its"
                " users, so it begins without any: leave --seed away, or name another one."
            )
        known = known or await self._create(create)
        if known is not None:
            await self._verify(create, known)
            if self._keep is not None:
                self._keep(create, known)
        self._on_user()
        return known["id"] if known is not None else None

    async def _match(self, create: Create) -> dict[str, Any] | None:
        """Look for the person; return the resource of the one hit that a restart finds."""
        line, answer = await self._wire.users("match", create.match.filter)
        hits = judge.listed(answer)
        if not hits:
            self._judge(line, judge.check_listed(answer, 0))
            return None
        findings = judge.check_listed(answer, 1) + judge.check_resource(hits[0], create.expected, create.optional)
        self._judge(line, findings)
        self._report.found += 1
        return _identified(hits[0])

    async def _create(self, create: Create) -> dict[str, Any] | None:
        line, answer = await self._wire.create("create", create.body)
        about = f"{line} (person {create.person.number}, shape {create.shape})"
        self._judge(about, judge.check_created(answer, create.expected, create.optional))
        if answer.status != 201:
            return None
        self._report.created += 1
        self._report.active += bool(create.expected["active"])
        self._report.invitable += create.invitable
        return _identified(answer.body)

    async def _verify(self, create: Create, known: dict[str, Any]) -> None:
        """See that the user is found and read as it was answered first, and cannot be created twice."""
        number = create.person.number
        line, answer = await self._wire.users("match again", create.match.filter)
        self._judge(line, _check_one_hit(answer, known))
        if number % 3 == 0:
            line, answer = await self._wire.users("match other case", create.match.other_case)
            exact = create.match.case_exact
            self._judge(line, judge.check_listed(answer, 0) if exact else _check_one_hit(answer, known))
        if number % 5 == 0:
            body = create.in_other_case() if number % 10 == 0 else create.body
            line, answer = await self._wire.create("create twice", body)
            self._judge(f"{line} again (person {number}, shape {create.shape})", judge.check_conflict(answer))
        line, answer = await self._wire.read("read", known["id"])
        self._judge(line, judge.check_read(answer, known))

    def _judge(self, request: str, findings: list[Finding]) -> None:
        self._report.deviates(request, findings)


def _check_one_hit(answer: Answer, known: dict[str, Any]) -> list[Finding]:
    findings = judge.check_listed(answer, 1)
    hits = judge.listed(answer)
    return findings + judge.check_same(hits[0], known) if hits else findings


def _identified(resource: Any) -> dict[str, Any] | None:
    """Return the resource if it can be asked for again."""
    usable = isinstance(resource, dict) and isinstance(resource.get("id"), str) and resource["id"]
    return resource if usable else None
