"""A random walk through the ledger: whatever happens in whatever order, no job is lost, shared or tried for ever."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test
from uuid_utils.compat import uuid7

from models import job_actions
from models import jobs as ledger
from models.audit.record import OPERATOR
from models.errors import JobError, PermanentJobError, RetryableJobError
from tests.support.ledger import empty_ledger, expire, make_due, new_tenant, shared_database, stage, take

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator
    from uuid import UUID

    from tests.support.servers import Servers

MOST = 3
KIND = ledger.Kind(
    "user.create", ledger.PROVISION, max_attempts=MOST, first_delay_seconds=60, longest_delay_seconds=600
)


@dataclass
class Expected:
    """What a job must look like."""

    state: str = "staged"
    attempts: int = 0
    holder: UUID | None = None


class Ledger(RuleBasedStateMachine):
    """The ledger, beside a model of it in memory."""

    url: str
    runner: asyncio.Runner

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[UUID, Expected] = {}
        self.overdue: set[UUID] = set()
        self._do(empty_ledger(self.url))
        self.connection: Any = self._do(asyncpg.connect(self.url))
        self._do(self.connection.set_type_codec("jsonb", schema="pg_catalog", encoder=str, decoder=str))
        self.tenants = [self._do(new_tenant(self.connection)) for _ in range(2)]

    def _do(self, work: Awaitable[Any]) -> Any:
        async def run() -> Any:
            return await work

        return self.runner.run(run())

    def _of(self, lease: UUID) -> list[UUID]:
        return [job_id for job_id, job in self.jobs.items() if job.holder == lease]

    @rule(tenant=st.integers(0, 1), count=st.integers(1, 4))
    def stage(self, tenant: int, count: int) -> None:
        for one in self._do(stage(self.connection, self.tenants[tenant], count)):
            self.jobs[one.id] = Expected()

    @rule(target=leases, limit=st.integers(1, 5))
    def claim(self, limit: int) -> UUID:
        lease = uuid7()
        for job in self._do(take(self.connection, lease, limit)):
            expected = self.jobs[job.id]
            assert expected.holder is None, "somebody else holds it"
            assert expected.state in ("staged", "retry")
            self.jobs[job.id] = Expected("running", expected.attempts + 1, lease)
            self.overdue.discard(job.id)
            assert job.attempts == expected.attempts + 1
        return lease

    @rule(lease=leases)
    def finish(self, lease: UUID) -> None:
        mine = self._of(lease)
        # Also asks for all the others: without the lease they are out of reach.
        assert self._do(ledger.finish(self.connection, list(self.jobs), lease)) == set(mine)
        for job_id in mine:
            self.jobs[job_id].state, self.jobs[job_id].holder = "done", None

    @rule(lease=leases, error=st.sampled_from([RetryableJobError("flaky"), PermanentJobError("hopeless")]))
    def fail(self, lease: UUID, error: JobError) -> None:
        for row in self._do(self.connection.fetch("SELECT * FROM job ORDER BY id LIMIT 5")):
            job = ledger.read_job(row)
            expected = self.jobs[job.id]
            ending = self._do(ledger.fail(self.connection, job, lease, error))
            if expected.holder != lease:
                assert ending is None
                continue
            final = isinstance(error, PermanentJobError) or expected.attempts == MOST
            assert ending.state == ("dead" if final else "retry")
            expected.state, expected.holder = ending.state, None

    @rule(lease=consumes(leases))
    def release(self, lease: UUID) -> None:
        mine = self._of(lease)
        assert self._do(ledger.release(self.connection, lease)) == len(mine)
        for job_id in mine:
            left = self.jobs[job_id].attempts - 1
            self.jobs[job_id] = Expected("retry" if left else "staged", left)

    @rule(lease=leases)
    def fall_silent(self, lease: UUID) -> None:
        self._do(expire(self.connection, lease))
        self.overdue.update(self._of(lease))

    @rule(lease=leases)
    def give_a_sign_of_life(self, lease: UUID) -> None:
        mine = self._of(lease)
        assert self._do(ledger.extend_lease(self.connection, lease, 30)) == len(mine)
        self.overdue.difference_update(mine)

    @rule()
    def rescue(self) -> None:
        lost = {job_id for job_id in self.overdue if self.jobs[job_id].state == "running"}
        rows = self._do(ledger.rescue(self.connection))
        assert {row["id"] for row in rows} == lost
        for row in rows:
            job = self.jobs[row["id"]]
            job.state, job.holder = ("dead" if job.attempts == MOST else "retry"), None
            assert row["state"] == job.state
        self.overdue.clear()

    @rule()
    def wait(self) -> None:
        self._do(make_due(self.connection))

    @rule(place=st.integers(0, 30))
    def retry_by_hand(self, place: int) -> None:
        job_id = self._some(place, "staged", "retry", "dead")
        if job_id:
            self._do(job_actions.retry_now(self.connection, job_id, actor=OPERATOR))
            self.jobs[job_id] = Expected()

    @rule(place=st.integers(0, 30))
    def cancel(self, place: int) -> None:
        job_id = self._some(place, "staged", "retry", "dead")
        if job_id:
            self._do(job_actions.cancel(self.connection, job_id, actor=OPERATOR))
            self.jobs[job_id].state = "cancelled"

    def _some(self, place: int, *states: str) -> UUID | None:
        found = [job_id for job_id, job in self.jobs.items() if job.state in states]
        return found[place % len(found)] if found else None

    @invariant()
    def the_ledger_is_as_expected(self) -> None:
        rows = self._do(self.connection.fetch("SELECT id, state, attempts, lease_token, lease_until FROM job"))
        assert {row["id"]: Expected(row["state"], row["attempts"], row["lease_token"]) for row in rows} == self.jobs
        for row in rows:
            assert 0 <= row["attempts"] <= MOST
            assert (row["lease_token"] is not None) == (row["lease_until"] is not None) == (row["state"] == "running")

    def teardown(self) -> None:
        # Nothing is stuck: with patience and no more faults every job that nobody ended comes to its end.
        for lease in {job.holder for job in self.jobs.values() if job.holder}:
            self.fall_silent(lease)
        self.rescue()
        for _ in range(len(self.jobs) + 1):
            self.wait()
            self.finish(self.claim(1000))
        assert {job.state for job in self.jobs.values()} <= {"done", "dead", "cancelled"}
        self._do(self.connection.close())


@pytest.fixture(scope="module")
def database_url(servers: Servers) -> Iterator[str]:
    with shared_database(servers) as url:
        yield url


def test_no_job_is_lost_shared_or_tried_for_ever(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ledger.KINDS, KIND.name, KIND)
    with asyncio.Runner() as runner:
        Ledger.url, Ledger.runner = database_url, runner
        run_state_machine_as_test(
            Ledger,
            settings=settings(
                max_examples=15,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )
