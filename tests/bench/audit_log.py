"""An audit log of any size for the benchmark: twelve months of events, written as so many transactions would have."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncpg

MONTHS: Final = 12
TENANTS: Final = 20

_TOGETHER = 200  # events of a transaction, as the worker writes them
_AT_ONCE = 250_000  # events between two words about it

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


async def fill(database: asyncpg.Connection, count: int, say: Callable[[str], None]) -> list[UUID]:
    """Load ``count`` events of the last twelve months into their partitions; return the tenants' ids.

    Args:
        database: with every right, outside a transaction.
        count: how many events.
        say: is told how far it is.
    """
    for row in await database.fetch(_MONTHS_BACK, MONTHS):
        await database.execute(row["statement"])
    tenants = [UUID(int=0x0198_0000_0000_7000_8000_0000_0000_1000 + number) for number in range(TENANTS)]
    for number, tenant_id in enumerate(tenants):
        await database.execute(
            "INSERT INTO tenant (id, name, display_name) VALUES ($1, $2, $2)", tenant_id, f"bench-{number}"
        )
    begin = datetime.now(UTC) - timedelta(days=364)
    step = timedelta(days=364) / count
    indexes = await database.fetch(_INDEXES)
    for index in indexes:
        await database.execute(f"DROP INDEX {index['name']}")
    await database.execute("SET synchronous_commit = off; SET maintenance_work_mem = '1GB'")
    await database.execute("CREATE SCHEMA IF NOT EXISTS bench")
    await database.execute(_PROCEDURE)
    for first in range(0, count, _AT_ONCE):
        last = min(first + _AT_ONCE, count)
        await database.execute(
            "CALL bench.write_events($1, $2, $3, $4, $5, $6)", begin, step, tenants, count, first, last, timeout=1800
        )
        say(f"audit: {last:,} of {count:,} events are loaded")
    for index in indexes:
        say(f"audit: making {index['name']}")
        await database.execute(index["made_by"].replace(" ON ONLY ", " ON "), timeout=1800)
    await database.execute("RESET synchronous_commit; RESET maintenance_work_mem")
    await database.execute("VACUUM ANALYZE audit_event", timeout=1800)
    await database.execute("CHECKPOINT", timeout=600)
    return tenants
