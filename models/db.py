"""The connection pool to PostgreSQL, and how its failures are told apart."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias
from uuid import UUID

import asyncpg
import orjson

from models import metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from asyncpg.pool import PoolConnectionProxy

    from models.settings import Settings

    Connection: TypeAlias = asyncpg.Connection | PoolConnectionProxy
    """A connection of one's own or one lent by a pool."""

STATEMENT_SECONDS = 15
"""After how long PostgreSQL cancels a statement of a worker, whose batches are large."""
REQUEST_STATEMENT_SECONDS = 5
"""The same for a request: it ends before the request's own time does (`USHER_REQUEST_SECONDS`)."""
ACQUIRE_SECONDS = 5.0
_SILENCE_SECONDS = 1  # how much longer than that a server that says nothing is waited for
_CANCEL_SECONDS = 1.0
# Sees the rows of the tenants that its transaction speaks for, and no other (docs/architecture.md).
TENANT_ROLE = "usher_tenant"
_FIRST_FOREIGN_TYPE = 10_000  # object ids below are the same in every database, of any version
_LONG = 50_000  # statements after which a connection is replaced: asyncpg's own number

UNAVAILABLE: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.QueryCanceledError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InternalClientError,
)
"""What asyncpg raises when the server is gone, going, full or too slow: the same statement may succeed later."""


def is_unavailable(error: BaseException) -> bool:
    """Tell whether ``error`` means that PostgreSQL cannot serve just now (HTTP 503, try the job again)."""
    if isinstance(error, UNAVAILABLE):
        return True
    # asyncpg reports a connection that broke under a statement, or a pool that closes, as InterfaceError.
    return isinstance(error, asyncpg.InterfaceError) and "clos" in str(error)


def _encode(value: Any) -> str:
    return orjson.dumps(value).decode()


async def _set_up(connection: asyncpg.Connection, role: str) -> None:
    # From here on the connection has no right to change or delete an audit event.
    await connection.execute(f'SET ROLE "{role}"')
    if role == TENANT_ROLE and not await connection.fetchval("SELECT row_security_active('users')"):
        raise RuntimeError("Row-level security is off: nothing is served without the wall between tenants.")
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=_encode, decoder=orjson.loads)


async def _keep(_: asyncpg.Connection) -> None:
    """Spare the round trip of asyncpg's own reset: no code here leaves state on a session."""


class Session(asyncpg.Connection):
    """A connection that is given up when its server does not even answer that it cancels a statement.

    asyncpg waits for that answer, and so would a request whose time is over, for as long as a statement may take.
    """

    _own_types: ClassVar[dict[frozenset[int], Any]] = {}

    async def _introspect_types(self, oids: Iterable[int], timeout: float | None) -> Any:  # noqa: ASYNC109  asyncpg's
        """Ask about PostgreSQL's own types once for all connections: the answer is the same and takes it 10 ms."""
        asked = frozenset(oids)
        if asked not in self._own_types:
            rows, statement = await super()._introspect_types(asked, timeout)  # type: ignore[misc]  # the stubs lack it
            if max(asked) >= _FIRST_FOREIGN_TYPE:
                return rows, statement
            self._own_types[asked] = rows, SimpleNamespace(name=statement.name)
        return self._own_types[asked]

    async def _cancel(self, *waiters: Any) -> None:
        async with asyncio.timeout(_CANCEL_SECONDS) as scope:
            await super()._cancel(*waiters)  # type: ignore[misc]  # the stubs lack it; it swallows the cancellation
        if not scope.expired() or self.is_closed():
            return
        proxy = self._proxy  # type: ignore[attr-defined]  # as above
        self.terminate()
        if proxy is not None:
            # The network has forgotten this connection; it may have forgotten those that lie idle, too.
            await proxy._holder._pool.expire_connections()  # noqa: SLF001  a session does not know its pool otherwise


class Pool(asyncpg.Pool):
    """A pool that counts how long its connections are waited for."""

    name = ""
    """What `pg_stat_activity` and `/metrics` call it."""
    acquire_seconds: float | None = None
    """How long a connection is waited for where the caller does not say; None is until there is one."""

    async def _acquire(self, timeout: float | None) -> PoolConnectionProxy:  # noqa: ASYNC109  asyncpg's signature
        asked = time.perf_counter()
        wait = self.acquire_seconds if timeout is None else timeout
        try:
            lent: PoolConnectionProxy = await super()._acquire(wait)  # type: ignore[misc]  # the stubs lack it
            return lent
        finally:
            metrics.DB_POOL_WAIT.observe(time.perf_counter() - asked, self.name)


async def open_pool(
    settings: Settings,
    *,
    name: str,
    process_id: UUID | None = None,
    role: str | None = None,
    size: int | None = None,
    statement_seconds: int = STATEMENT_SECONDS,
    acquire_seconds: float | None = None,
) -> asyncpg.Pool:
    """Return a pool that connects on first use, so that a process can start before PostgreSQL does.

    Args:
        settings: gives the URL, the role and the usual size.
        name: what `pg_stat_activity` shows as application_name, after "usher".
        process_id: stands behind the name, so that others can end the sessions of a process that is frozen
            (`models.processes.end_silent_sessions`).
        role: what its connections become, when not ``settings.database_role``.
        size: the most connections, when not ``settings.database_pool``.
        statement_seconds: after how long PostgreSQL cancels a statement; one that is still silent then is given up.
        acquire_seconds: how long a free connection is waited for where the caller does not say.
    """

    async def init(connection: asyncpg.Connection) -> None:
        await _set_up(connection, role or settings.database_role)

    pool = Pool(
        settings.database_url.get_secret_value(),
        connection_class=Session,
        record_class=asyncpg.Record,
        loop=None,
        max_queries=_LONG,
        max_inactive_connection_lifetime=300.0,
        min_size=0,
        max_size=size or settings.database_pool,
        init=init,
        reset=_keep,
        timeout=ACQUIRE_SECONDS,
        command_timeout=statement_seconds + _SILENCE_SECONDS,
        server_settings={
            "application_name": f"usher {name} {process_id or ''}".rstrip(),
            "statement_timeout": f"{statement_seconds}s",
            "lock_timeout": "10s",
            "idle_in_transaction_session_timeout": "30s",
            "jit": "off",
            "timezone": "UTC",
        },
    )
    pool.name, pool.acquire_seconds = name, acquire_seconds
    return await pool


def named_tenants(tenant_ids: Iterable[UUID]) -> str:
    """Return the value of the setting `usher.tenants`; nothing but digits of UUIDs gets into it."""
    return f"{{{','.join({str(UUID(int=tenant_id.int)) for tenant_id in tenant_ids})}}}"


@asynccontextmanager
async def tenant_scope(pool: asyncpg.Pool, tenant_ids: Iterable[UUID]) -> AsyncIterator[Connection]:
    """Open a transaction that speaks for tenants: under `TENANT_ROLE` it sees their rows and no other's.

    The setting ends with the transaction, however that ends. Nothing inside may begin a transaction of its own.

    Args:
        pool: where to take a connection.
        tenant_ids: for whom.
    """
    named = named_tenants(tenant_ids)
    async with pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
        # In one round trip, where asyncpg's own transaction and a statement would take two.
        await connection.execute(f"BEGIN; SELECT set_config('usher.tenants', '{named}', true)")
        try:
            yield connection
        except BaseException:
            with suppress(Exception):  # the pool ends what is not ended here, or closes the connection
                await connection.execute("ROLLBACK")
            raise
        await connection.execute("COMMIT")


def for_tenant(query: str) -> str:
    """Return a query whose $1 is a tenant's id as one that speaks for that tenant.

    It costs a tenth of what `tenant_scope` does, as it needs no round trip but its own. PostgreSQL promises no order
    among the parts of a statement; but a subquery that needs a row of another one waits for that row, and OFFSET
    keeps the planner from taking it apart. If the order were ever another one, no row would be found: never another's.
    That does not hold for a statement that writes, whose parts cannot be put into a subquery.

    Args:
        query: a SELECT; in a transaction that speaks for others already it changes for whom.
    """
    return f"""
SELECT found.*
  FROM (SELECT set_config('usher.tenants', '{{' || $1::uuid || '}}', true)) AS scope (tenants)
 CROSS JOIN LATERAL (SELECT asked.* FROM ({query}) AS asked WHERE scope.tenants IS NOT NULL OFFSET 0) AS found
"""  # noqa: S608  statements of ours
