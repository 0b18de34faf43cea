"""How far a tenant's cycle is: what Entra pushed without a long break, as far as it was accepted, applied and invited.

Ids of users hold the moment of their creation (UUID version 7), so that primary keys answer what was created since.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from models.db import Connection

BREAK_SECONDS = 1800
"""A time without a new user that ends a cycle; Entra begins one every 20 to 40 minutes, and its first lasts long."""
_MOST_STEPS = 400  # of a break's length: as far back as a beginning is looked for
_RATE_SECONDS = 120.0
_MOST_EVENTS = 20_000  # newest audit events that a rate is read from
_MOST_TENANTS = 10


def first_id(moment: float) -> UUID:
    """Return the least id that can have been made at ``moment`` (seconds since the epoch) or later."""
    return UUID(int=max(int(moment * 1000), 0) << 80)


def moment_of(identifier: UUID) -> float:
    """Return when an id was made, in seconds since the epoch."""
    return (identifier.int >> 80) / 1000


Beginnings = dict[UUID, tuple[UUID, UUID]]
"""By tenant, the first and the last user of its cycle when it was looked at last: a cycle goes on from there."""


@dataclass(frozen=True, slots=True)
class Cycle:
    """How far one tenant's cycle is."""

    tenant_id: UUID
    tenant: str
    began_at: datetime
    last_at: datetime
    """When the newest user was accepted."""
    idle_seconds: float
    """How long ago that was."""
    accepted: int
    applied: int
    invited: int
    """Whose invitation the mail server took."""
    inviting: int
    """Whose invitation is still to be sent."""
    not_invited: int
    """Whose invitation failed or was called off."""
    dead: int
    """Creates that are in the dead letters; they count as not applied."""
    accept_rate: float = 0.0
    apply_rate: float = 0.0
    invite_rate: float = 0.0
    """A second, over the last minutes."""

    @property
    def waiting(self) -> int:
        """How many are accepted and not yet applied, without those that are dead."""
        return max(self.accepted - self.applied - self.dead, 0)

    @property
    def state(self) -> str:
        """`accepting` while users come, `applying` or `inviting` while that is behind, then `done`."""
        if self.accept_rate > 0 and self.idle_seconds < 60:
            return "accepting"
        if self.waiting:
            return "applying"
        return "inviting" if self.inviting else "done"

    @property
    def seconds_left(self) -> float | None:
        """How long what is accepted will take at the rates of now; None if nothing moves, 0 if nothing is left."""
        left = [(self.waiting, self.apply_rate), (self.waiting + self.inviting, self.invite_rate)]
        if not self.inviting:
            left.pop()  # nobody is being invited, perhaps because the tenant does without
        if any(count and not rate for count, rate in left):
            return None
        return max((count / rate for count, rate in left if count), default=0.0)


# Anybody who had a user created lately, or still has one waiting: two index probes a tenant. OFFSET 0, here and below,
# has PostgreSQL make a value once and not at each place where it is named.
_TENANTS = """
SELECT id, name, newest FROM (
    SELECT tenant.id, tenant.name,
           greatest((SELECT users.id FROM users WHERE tenant_id = tenant.id ORDER BY users.id DESC LIMIT 1),
                    (SELECT resource_id FROM job
                      WHERE tenant_id = tenant.id AND kind = 'user.create'
                        AND state IN ('staged', 'running', 'retry', 'dead')
                      ORDER BY resource_id DESC LIMIT 1)) AS newest,
           EXISTS (SELECT FROM job WHERE queue = 'provision' AND tenant_id = tenant.id
                                     AND state IN ('staged', 'retry')) AS waiting
      FROM tenant WHERE $1::text IS NULL OR name = $1 OFFSET 0
) AS seen WHERE newest IS NOT NULL AND (newest >= $2 OR waiting) ORDER BY newest DESC LIMIT $3
"""

# From the newest creation back, again and again to the earliest one within a break's length before it. An id's first 48
# bits are milliseconds.
_BEGAN = """
WITH RECURSIVE step (id, number) AS (
    SELECT $2::uuid, 0
    UNION ALL
    SELECT earlier.id, number + 1
      FROM step
     CROSS JOIN LATERAL (
           SELECT rpad(lpad(to_hex(greatest(('x' || translate(left(step.id::text, 13), '-', ''))::bit(48)::bigint - $3,
                                            0)), 12, '0'), 32, '0')::uuid AS id) AS edge
     CROSS JOIN LATERAL (
           SELECT least((SELECT id FROM users WHERE tenant_id = $1 AND id >= edge.id ORDER BY id LIMIT 1),
                        (SELECT resource_id FROM job
                          WHERE tenant_id = $1 AND resource_id >= edge.id AND kind = 'user.create'
                            AND state IN ('staged', 'running', 'retry', 'dead')
                          ORDER BY resource_id LIMIT 1)) AS id OFFSET 0) AS earlier
     WHERE earlier.id < step.id AND number < $4
)
SELECT id FROM step ORDER BY number DESC LIMIT 1
"""

# Most were invited, and an index alone tells how many invitations there are.
_COUNTS = """
SELECT (SELECT count(*) FROM users WHERE tenant_id = $1 AND id >= $2) AS applied,
       (SELECT count(*) FROM job WHERE tenant_id = $1 AND resource_id >= $2 AND kind = 'user.create'
           AND state IN ('staged', 'running', 'retry', 'dead')) AS waiting,
       (SELECT count(*) FROM job
         WHERE tenant_id = $1 AND resource_id >= $2 AND kind = 'user.create' AND state = 'dead') AS dead,
       invitation.inviting, invitation.not_invited,
       (SELECT count(*) FROM invitation WHERE tenant_id = $1 AND user_id >= $2)
           - invitation.inviting - invitation.not_invited AS invited
  FROM (SELECT count(*) FILTER (WHERE state <> 'failed') AS inviting,
               count(*) FILTER (WHERE state = 'failed') AS not_invited
          FROM invitation
         WHERE tenant_id = $1 AND user_id >= $2 AND state IN ('pending', 'sending', 'failed') AND state <> 'sent')
           AS invitation
"""

_RATES = """
SELECT count(*) FILTER (WHERE action = 'scim.user.create' AND phase = 'requested') AS accepted,
       count(*) FILTER (WHERE action = 'scim.user.create' AND phase = 'applied') AS applied,
       count(*) FILTER (WHERE action = 'invitation.email.send' AND phase = 'applied') AS invited,
       extract(epoch FROM now() - min(occurred_at) FILTER (
           WHERE action IN ('scim.user.create', 'invitation.email.send')))::float AS seconds
  FROM (SELECT action, phase, occurred_at FROM audit_event
         WHERE tenant_id = $1 AND occurred_at > now() - make_interval(secs => $2)
         ORDER BY occurred_at DESC, id DESC LIMIT $3) AS newest
"""


async def _began(connection: Connection, tenant_id: UUID, newest: UUID, known: tuple[UUID, UUID] | None) -> UUID:
    """Return the id of the first user of the cycle that ``newest`` is the last of.

    Args:
        connection: where to read.
        tenant_id: whose.
        newest: its last user.
        known: the first and the last that its cycle had when it was looked at before.
    """
    if known is not None and 0 <= moment_of(newest) - moment_of(known[1]) <= BREAK_SECONDS:
        return known[0]
    first: UUID = await connection.fetchval(_BEGAN, tenant_id, newest, BREAK_SECONDS * 1000, _MOST_STEPS)
    return first


async def list_cycles(
    connection: Connection, tenant: str | None = None, *, beginnings: Beginnings | None = None
) -> list[Cycle]:
    """Return the cycles that are going on or ended within the last half an hour, the latest first.

    Args:
        connection: where to read.
        tenant: only that of the tenant with this short name, however long ago it was.
        beginnings: kept by whoever asks again and again.
    """
    beginnings = {} if beginnings is None else beginnings
    now: datetime = await connection.fetchval("SELECT now()")
    since = 0.0 if tenant else now.timestamp() - BREAK_SECONDS
    rows = await connection.fetch(_TENANTS, tenant, first_id(since), _MOST_TENANTS)
    found = []
    for row in rows:
        first = await _began(connection, row["id"], row["newest"], beginnings.get(row["id"]))
        beginnings[row["id"]] = (first, row["newest"])
        found.append(await _read(connection, row["id"], row["name"], first, row["newest"], now))
    return found


async def _read(
    connection: Connection, tenant_id: UUID, tenant: str, began: UUID, newest: UUID, now: datetime
) -> Cycle:
    counts = await connection.fetchrow(_COUNTS, tenant_id, began)
    rates = await connection.fetchrow(_RATES, tenant_id, _RATE_SECONDS, _MOST_EVENTS)
    assert counts is not None  # noqa: S101  aggregates have a row
    assert rates is not None  # noqa: S101  as above
    seconds = max(rates["seconds"] or 0.0, 1.0)
    return Cycle(
        tenant_id=tenant_id,
        tenant=tenant,
        began_at=datetime.fromtimestamp(moment_of(began), UTC),
        last_at=datetime.fromtimestamp(moment_of(newest), UTC),
        idle_seconds=max(now.timestamp() - moment_of(newest), 0.0),
        accepted=counts["applied"] + counts["waiting"],
        applied=counts["applied"],
        invited=counts["invited"],
        inviting=counts["inviting"],
        not_invited=counts["not_invited"],
        dead=counts["dead"],
        accept_rate=rates["accepted"] / seconds,
        apply_rate=rates["applied"] / seconds,
        invite_rate=rates["invited"] / seconds,
    )
