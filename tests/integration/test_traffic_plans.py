"""What pages ask about requests, e-mails and tenants is answered by indexes: no table that grows is read whole."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest
from uuid_utils.compat import uuid7

from models.mailings import STATES, Mailings, count_replies, count_states, find_mailing, list_mailings
from models.request_log import list_requests, omitted, traffic
from models.suppression import is_suppressed, list_suppressed
from models.tenant_report import minutes, report

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg

    from models.db import Connection

TENANT, OTHER = uuid7(), uuid7()
GROWING = ("invitation", "request_log", "request_minute", "job", "users", "identifier", "audit_event")


class Explained:
    """A connection that keeps the plan of whatever it is asked."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.plans: list[str] = []

    async def _explain(self, statement: str, values: tuple[Any, ...]) -> None:
        rows = await self._connection.fetch(f"EXPLAIN {statement}", *values)
        self.plans.append("\n".join(row[0] for row in rows))

    async def fetch(self, statement: str, *values: Any) -> Any:
        await self._explain(statement, values)
        return await self._connection.fetch(statement, *values)

    async def fetchrow(self, statement: str, *values: Any) -> Any:
        await self._explain(statement, values)
        return await self._connection.fetchrow(statement, *values)

    async def fetchval(self, statement: str, *values: Any) -> Any:
        await self._explain(statement, values)
        return await self._connection.fetchval(statement, *values)


ASKED: dict[str, Callable[[Any], Awaitable[Any]]] = {
    **{
        f"invitations {state}{' of a tenant' if tenant else ''}": partial(
            list_mailings, wanted=Mailings(state=state, tenant_id=tenant, before=uuid7())
        )
        for state in (*STATES, None)
        for tenant in (None, TENANT)
    },
    "invitations by code": lambda c: list_mailings(c, Mailings(code="smtp_5xx", state="failed", tenant_id=TENANT)),
    "invitations of a person": lambda c: list_mailings(c, Mailings(user_name="ana@example.com")),
    "counts": count_states,
    "counts of a tenant": lambda c: count_states(c, TENANT),
    "replies": count_replies,
    "replies of a tenant": lambda c: count_replies(c, TENANT),
    "an invitation": lambda c: find_mailing(c, OTHER),
    "requests": lambda c: list_requests(c, before=uuid7()),
    "requests of a tenant": lambda c: list_requests(c, tenant_id=TENANT, failed=True),
    "a correlation": lambda c: list_requests(c, correlation_id=OTHER),
    "requests that come": lambda c: list_requests(c, tenant_id=TENANT, after=uuid7()),
    "omitted": omitted,
    "omitted of a tenant": lambda c: omitted(c, TENANT),
    "traffic": lambda c: traffic(c, None, seconds=60),
    "tenants": report,
    "minutes": lambda c: minutes(c, TENANT),
    "suppressed": lambda c: list_suppressed(c, after=(TENANT, "a@b.example")),
    "an address": lambda c: is_suppressed(c, TENANT, "a@b.example"),
}


@pytest.mark.parametrize("asked", ASKED)
async def test_no_growing_table_is_read_whole(pool: asyncpg.Pool, asked: str) -> None:
    async with pool.acquire() as connection:
        # An empty table is read whole by choice; whether it must be is the question here.
        await connection.execute("SET enable_seqscan = off")
        await connection.execute("INSERT INTO tenant (id, name, display_name) VALUES ($1, 'a', 'A')", TENANT)
        await connection.execute(
            "INSERT INTO invitation (id, tenant_id, user_id, email) VALUES ($1, $2, $1, 'a@b.example')", OTHER, TENANT
        )
        explained = Explained(connection)
        await ASKED[asked](cast("Any", explained))
        await connection.execute("RESET enable_seqscan")
    assert explained.plans
    for plan in explained.plans:
        for table in GROWING:
            assert f"Seq Scan on {table}" not in plan, plan
