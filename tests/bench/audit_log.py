"""An audit log of any size for the benchmark: twelve months of events, written as so many transactions would have.

It can be kept, sealed, in a folder: ten million events take longer to load than all that is measured over them.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

import asyncpg

from models.audit.keys import read_signer
from models.audit.seal import know_key, seal_waiting
from tests.bench.generator import WrongAnswerError
from tests.bench.servers import usher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from models.audit.keys import Signer
    from tests.bench.servers import Usher
    from tests.bench.workloads import Bench

MONTHS: Final = 12
TENANTS: Final = 20
KEY_FILE: Final = "audit.key"
"""In the data folder of `usher up`."""
SEALED_BY: Final = "audit_event_xid"
"""The index that sealing reads by; it is made first."""

_TOGETHER = 200  # events of a transaction, as the worker writes them
_AT_ONCE = 250_000  # events between two words about it
_LONG = 3600.0

_MONTHS_BACK = """
SELECT format('CREATE TABLE IF NOT EXISTS audit_event_%s PARTITION OF audit_event FOR VALUES FROM (%L) TO (%L)',
              to_char(month AT TIME ZONE 'UTC', 'YYYYMM'), month, month + interval '1 month') AS statement
  FROM generate_series(date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' - $1 * interval '1 month',
                       date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' - interval '1 month',
                       interval '1 month') AS month
"""

# Events as they come in life: a tenant in turn, mostly changes of users; one in fifty fails or is refused. Ids have the
# clock of version 7 in them. A person is named in about thirty events, and a request leads to three.
_PROCEDURE = f"""
CREATE OR REPLACE PROCEDURE bench.write_events(begin_at timestamptz, step interval, tenants uuid[], total bigint,
                                               first bigint, bound bigint) LANGUAGE plpgsql AS $$
BEGIN
  FOR low IN first .. bound - 1 BY {_TOGETHER} LOOP
    INSERT INTO audit_event (occurred_at, id, tenant_id, action, phase, outcome, reason, severity, actor_type, actor_id,
                             actor_label, targets, correlation_id, context, diff, changed)
    SELECT moment,
           (lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0') || '7' || lpad(to_hex(n % 4096), 3, '0')
            || '8' || lpad(to_hex(n), 15, '0'))::uuid,
           tenants[1 + abs(hashint8(n) % {TENANTS})],
           (ARRAY['scim.user.update', 'scim.user.update', 'scim.user.create', 'scim.user.disable',
                  'scim.group.member.add', 'invitation.email.send'])[1 + n % 6],
           CASE WHEN fate = 0 THEN 'failed' WHEN fate = 25 THEN 'denied' ELSE 'applied' END,
           CASE WHEN fate = 0 THEN 'failure' WHEN fate = 25 THEN 'denied' ELSE 'success' END,
           CASE WHEN fate = 0 THEN 'smtp_5xx' WHEN fate = 25 THEN 'uniqueness' END,
           1, 'token', 'tok' || n % 40, 'Entra',
           jsonb_build_array(jsonb_build_object(
               'type', 'User', 'id', '01990000-0000-7000-8000-' || lpad(to_hex(person), 12, '0'),
               'label', 'person' || person || '@example.com', 'external_id', 'e-' || person)),
           ('01980000-0000-7000-8000-' || lpad(to_hex(n / 3), 12, '0'))::uuid,
           jsonb_build_object('method', 'PATCH', 'route', '/Users/{{id}}', 'ip', '10.0.' || n % 256 || '.7'),
           jsonb_build_array(jsonb_build_object('op', 'replace', 'path', 'title', 'before', 'a', 'after', 'b')),
           ARRAY['title']
      FROM (SELECT n, begin_at + n * step AS moment, abs(hashint8(-n) % 50) AS fate,
                   (n * 7919) % greatest(total / 30, 1) AS person
              FROM generate_series(low, least(low + {_TOGETHER}, bound) - 1) AS n) AS event;
    COMMIT;
  END LOOP;
END $$
"""  # noqa: S608  constants

# Ten million events come one by one in life; here an index that is made afterwards is made in a tenth of the time.
_INDEXES = """
SELECT c.relname AS name, pg_get_indexdef(i.indexrelid) AS made_by
  FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
 WHERE i.indrelid = 'audit_event'::regclass AND NOT i.indisprimary ORDER BY 1
"""


_KEPT = """
CREATE TABLE IF NOT EXISTS bench.kept (events bigint NOT NULL, tenants uuid[] NOT NULL)
"""


async def fill(database_url: str, count: int, say: Callable[[str], None], signer: Signer | None = None) -> list[UUID]:
    """Load ``count`` events of the last twelve months into their partitions; return the tenants' ids.

    Args:
        database_url: of a login with every right.
        count: how many events.
        say: is told how far it is.
        signer: seals them, if they are to be sealed.
    """
    async with AsyncExitStack() as stack:
        one, other = [await _connected(stack, database_url) for _ in range(2)]
        for row in await one.fetch(_MONTHS_BACK, MONTHS):
            await one.execute(row["statement"])
        tenants = [UUID(int=0x0198_0000_0000_7000_8000_0000_0000_1000 + number) for number in range(TENANTS)]
        for number, tenant_id in enumerate(tenants):
            await one.execute(
                "INSERT INTO tenant (id, name, display_name) VALUES ($1, $2, $2)", tenant_id, f"bench-{number}"
            )
        indexes = await one.fetch(_INDEXES)
        for index in indexes:
            await one.execute(f"DROP INDEX {index['name']}")
        await one.execute("CREATE SCHEMA bench")
        await one.execute(_PROCEDURE)
        loading = _Loading(count, tenants, say)
        await asyncio.gather(loading.write(one, 0, count // 2), loading.write(other, count // 2, count))
        waiting = sorted(indexes, key=lambda index: index["name"] != SEALED_BY, reverse=True)
        await _make_indexes(one, [waiting.pop()], say)
        # One after the other: two that are made at once may give a partition's index the same name.
        await asyncio.gather(_make_indexes(one, waiting, say), *([_seal(other, signer, say)] if signer else ()))
        await one.execute("VACUUM ANALYZE audit_event", timeout=_LONG)
        await one.execute(_KEPT)
        await one.execute("INSERT INTO bench.kept (events, tenants) VALUES ($1, $2)", count, tenants)
        await one.execute("CHECKPOINT", timeout=_LONG)
    return tenants


async def _connected(stack: AsyncExitStack, database_url: str) -> asyncpg.Connection:
    connection: asyncpg.Connection = await asyncpg.connect(database_url)
    stack.push_async_callback(connection.close)
    await connection.execute("SET synchronous_commit = off; SET maintenance_work_mem = '1GB'")
    return connection


class _Loading:
    """How far it is, over all connections that write."""

    def __init__(self, count: int, tenants: list[UUID], say: Callable[[str], None]) -> None:
        self._count, self._tenants, self._say, self._done = count, tenants, say, 0
        self._begin = datetime.now(UTC) - timedelta(days=364)

    async def write(self, database: asyncpg.Connection, first: int, bound: int) -> None:
        """Write events from one number to another."""
        step = timedelta(days=364) / self._count
        for low in range(first, bound, _AT_ONCE):
            high = min(low + _AT_ONCE, bound)
            values = (self._begin, step, self._tenants, self._count, low, high)
            await database.execute("CALL bench.write_events($1, $2, $3, $4, $5, $6)", *values, timeout=_LONG)
            self._done += high - low
            self._say(f"audit: {self._done:,} of {self._count:,} events are loaded")


async def _make_indexes(
    database: asyncpg.Connection, waiting: list[asyncpg.Record], say: Callable[[str], None]
) -> None:
    while waiting:
        index = waiting.pop()
        say(f"audit: making {index['name']}")
        await database.execute(index["made_by"].replace(" ON ONLY ", " ON "), timeout=_LONG)


async def _seal(database: asyncpg.Connection, signer: Signer, say: Callable[[str], None]) -> None:
    await know_key(database, signer)
    done = await seal_waiting(database, signer)
    say(f"audit: {done.events:,} events are sealed")


@asynccontextmanager
async def loaded(
    bench: Bench, name: str, count: int, *, sealed: bool = False
) -> AsyncIterator[tuple[Usher, list[UUID], Path]]:
    """Start an Usher whose audit log has ``count`` events; gives it, the tenants' ids and its data folder.

    Args:
        bench: with ``keep``, the log is the one that is kept there, and made and sealed the first time.
        name: of the data folder, where it is not kept.
        count: how many events.
        sealed: they are to be sealed, also where they are not kept.

    Raises:
        WrongAnswerError: what is kept is not such a log.
    """
    folder, name = (bench.keep, "audit") if bench.keep else (bench.folder, name)
    async with usher(folder, name, processes=1, workers=0, keep=bench.keep is not None) as target:
        there = await target.database.fetchval("SELECT to_regnamespace('bench') IS NOT NULL")
        if not there:
            bench.say(f"audit: loading {count:,} events")
            signer = read_signer(folder / name / KEY_FILE) if sealed or bench.keep else None
            tenants = await fill(target.database_url, count, bench.say, signer)
        else:
            finished = await target.database.fetchval("SELECT to_regclass('bench.kept') IS NOT NULL")
            row = await target.database.fetchrow("SELECT events, tenants FROM bench.kept") if finished else None
            if row is None:
                raise WrongAnswerError(f"loading {folder} was cut off; remove it and begin anew")
            if row["events"] != count:
                raise WrongAnswerError(f"{folder} has {row['events']} events: BENCH_AUDIT_EVENTS must say so")
            tenants = row["tenants"]
        yield target, tenants, folder / name
