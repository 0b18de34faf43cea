"""Streams of audit events to places outside: adding, listing, changing, pausing and removing them.

Sending is `models.audit.streaming` and the worker's `worker.streamer`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from uuid_utils.compat import uuid7

from models.audit.canonical import PLATFORM
from models.audit.record import Event, record
from models.audit.seal import read_horizon
from models.audit.stream_levels import check_levels
from models.audit.stream_place import read_place
from models.audit.stream_secret import lock, new_secret, read_credentials, unlock
from models.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID

    import asyncpg

    from models.audit.record import Actor
    from models.audit.stream_place import Place
    from models.db import Connection

FORMATS: Final = ("jsonl", "ocsf")
LAST_ID: Final = "ffffffff-ffff-ffff-ffff-ffffffffffff"
"""A cursor with it stands behind every event of its transaction."""
_COLUMNS = """
s.id, s.tenant_id, tenant.name AS tenant, s.kind, s.destination, s.format, s.levels, s.state, s.cursor_xid,
s.cursor_id, s.sent, s.failures, s.next_at, s.last_sent_at, s.last_event_at, s.error_code, s.created_by, s.created_at,
s.secret
"""
READ = f"SELECT {_COLUMNS} FROM audit_stream AS s LEFT JOIN tenant ON tenant.id = s.tenant_id"  # noqa: S608  constants

# The oldest event that a stream still lacks. Events of a transaction may be older than the last one that was sent,
# but no transaction lives for two minutes. Each of the two finds them through the index of a tenant's time.
_FIRST = """
SELECT e.occurred_at FROM audit_event AS e
 WHERE e.tenant_id {whose}
   AND e.occurred_at >= coalesce(s.last_event_at, CASE WHEN s.cursor_xid > 0 THEN s.created_at ELSE '-infinity' END)
                        - interval '2 minutes'
   AND ((e.xid::text::bigint), e.id) > (s.cursor_xid, s.cursor_id)
 ORDER BY e.occurred_at LIMIT 1
"""
_LAG = f"""
SELECT s.id, s.kind, s.state, greatest(extract(epoch FROM now() - first.occurred_at), 0)::float AS lag
  FROM audit_stream AS s, LATERAL ({_FIRST.format(whose="= s.tenant_id")}) AS first WHERE s.tenant_id <> '{PLATFORM}'
UNION ALL
SELECT s.id, s.kind, s.state, greatest(extract(epoch FROM now() - first.occurred_at), 0)::float
  FROM audit_stream AS s, LATERAL ({_FIRST.format(whose="IS NULL")}) AS first WHERE s.tenant_id = '{PLATFORM}'
"""  # noqa: S608  constants


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream as it stands."""

    id: UUID
    tenant_id: UUID | None
    """None for the installation's own events."""
    tenant: str | None
    kind: str
    """`https`, `syslog` or `s3`."""
    destination: str
    format: str
    levels: dict[str, str]
    """How much of an attribute leaves, by the first part of its path in small letters."""
    state: str
    """`active` or `paused`."""
    cursor_xid: int
    cursor_id: UUID
    sent: int
    failures: int
    """How often in a row it was refused."""
    next_at: datetime
    last_sent_at: datetime | None
    last_event_at: datetime | None
    error_code: str | None
    created_by: str
    created_at: datetime
    lag: float = 0.0
    """Age of the oldest event that the place still lacks, in seconds."""
    secret: bytes | None = field(default=None, repr=False)
    """Encrypted; see `read_secret`."""

    @property
    def condition(self) -> str:
        """`ok`, `retry` (it failed and is tried again) or `paused`."""
        return "paused" if self.state == "paused" else "retry" if self.failures else "ok"

    def as_dict(self) -> dict[str, Any]:
        """Return what may be shown of it."""
        hidden = ("secret", "cursor_id", "tenant_id")
        shown = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in hidden}
        return {**shown, "condition": self.condition}


def read_stream(row: asyncpg.Record, lag: float = 0.0) -> Stream:
    """Make a Stream of a row of `READ`."""
    values = {name: row[name] for name in Stream.__dataclass_fields__ if name != "lag"}
    if values["tenant_id"] == PLATFORM:
        values["tenant_id"] = None
    return Stream(**values, lag=lag)


def read_secret(stream: Stream, secret_key: str) -> dict[str, str]:
    """Return what the place is to know us by: `secret` and `authorization`, or `access_key` and `secret_key`.

    Raises:
        UnreadableSecretError: it was stored under another `USHER_SECRET_KEY`.
    """
    return unlock(stream.id, stream.secret, secret_key)


def _event(action: str, stream: Stream, actor: Actor, diff: list[dict[str, Any]] | None, **more: Any) -> Event:
    return Event(
        action=action,
        phase="applied",
        actor=actor,
        correlation_id=uuid7(),
        tenant_id=stream.tenant_id,
        targets=[{"type": "Stream", "id": str(stream.id), "label": stream.destination}],
        diff=diff,
        **more,
    )


async def add_stream(
    connection: Connection,
    *,
    tenant_id: UUID | None,
    destination: str,
    form: str,
    credentials: str | None,
    levels: Mapping[str, str] | None = None,
    history: bool = False,
    secret_key: str,
    actor: Actor,
) -> tuple[Stream, str | None]:
    """Have a tenant's events, or the installation's own, sent to a place from now on, and audit that.

    Args:
        connection: outside a transaction.
        tenant_id: whose events; None for the installation's own.
        destination: as `models.audit.stream_place` reads it.
        form: one of `FORMATS`.
        credentials: the `Authorization` header for HTTPS, or `ACCESS_KEY_ID:SECRET_ACCESS_KEY` for S3.
        levels: how much of an attribute leaves, where it is to be another than by default.
        history: send also everything that is in the log already.
        secret_key: `USHER_SECRET_KEY`.
        actor: who asks.

    Returns:
        The stream, and for HTTPS the secret of its signatures, which is not shown again.

    Raises:
        UsageError: something of it cannot be used.
    """
    place = read_place(destination)
    _check_format(form)
    kept = read_credentials(place.kind, credentials)
    secret = new_secret() if place.kind == "https" else None
    if secret:
        kept["secret"] = secret
    checked = check_levels(levels or {})
    stream_id: UUID = uuid7()
    async with connection.transaction():
        horizon, _ = await read_horizon(connection)
        await connection.execute(
            "INSERT INTO audit_stream (id, tenant_id, kind, destination, format, levels, cursor_xid, cursor_id, secret,"
            " created_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            stream_id,
            tenant_id or PLATFORM,
            place.kind,
            destination,
            form,
            checked,
            0 if history else horizon - 1,
            LAST_ID,
            lock(stream_id, kept, secret_key),
            actor.label or actor.id or actor.type,
        )
        stream = await find_stream(connection, stream_id)
        diff: list[dict[str, Any]] = [
            {"op": "add", "path": "destination", "after": destination},
            {"op": "add", "path": "format", "after": form},
        ]
        if checked:
            diff.append({"op": "add", "path": "levels", "after": checked})
        await record(connection, [_event("audit.stream.add", stream, actor, diff, context={"history": history})])
    return stream, secret


def _check_format(form: str) -> None:
    if form not in FORMATS:
        raise UsageError(f"There is no format {form}; there are {', '.join(FORMATS)}.")


async def list_streams(connection: Connection) -> list[Stream]:
    """Return every stream with its lag, oldest first."""
    rows = await connection.fetch(f"{READ} ORDER BY s.id")
    lags = {row["id"]: row["lag"] for row in await read_lags(connection)} if rows else {}
    return [read_stream(row, lags.get(row["id"], 0.0)) for row in rows]


async def read_lags(connection: Connection) -> list[asyncpg.Record]:
    """Return id, kind, state and lag in seconds of every stream that lacks an event."""
    return await connection.fetch(_LAG)


async def find_stream(connection: Connection, stream_id: UUID) -> Stream:
    """Return one stream, without its lag.

    Raises:
        UsageError: there is no such stream.
    """
    row = await connection.fetchrow(f"{READ} WHERE s.id = $1", stream_id)
    if row is None:
        raise UsageError(f"There is no stream {stream_id}; `usher audit stream ls` shows them.")
    return read_stream(row)


async def _hold(connection: Connection, stream_id: UUID) -> Stream:
    """Return one stream, which nobody else changes until the transaction ends."""
    await connection.execute("SELECT FROM audit_stream WHERE id = $1 FOR UPDATE", stream_id)
    return await find_stream(connection, stream_id)


async def change_stream(
    connection: Connection,
    stream_id: UUID,
    *,
    destination: str | None = None,
    form: str | None = None,
    credentials: str | None = None,
    levels: Mapping[str, str] | None = None,
    renew_secret: bool = False,
    secret_key: str,
    actor: Actor,
) -> tuple[Stream, str | None]:
    """Change what is given and leave the rest; it is tried again at once. The cursor stays where it is.

    Returns:
        The stream, and the new secret of its signatures if one was made.

    Raises:
        UsageError: something of it cannot be used, another kind of destination is named, or another host without the
            credentials for it.
        UnreadableSecretError: the secret that is to be kept was stored under another `USHER_SECRET_KEY`.
    """
    async with connection.transaction():
        before = await _hold(connection, stream_id)
        place = read_place(destination or before.destination)
        if place.kind != before.kind:
            raise UsageError(f"The stream is of kind {before.kind}; add another one for {place.kind}.")
        _check_format(form or before.format)
        if renew_secret and place.kind != "https":
            raise UsageError("Only what is posted over HTTPS is signed.")
        if credentials is None and _is_elsewhere(place, before) and "authorization" in read_secret(before, secret_key):
            raise UsageError("The credentials were given for another host; give those of the new one.")
        secret = new_secret() if renew_secret else None
        stored = before.secret
        if credentials is not None or secret:
            whole = secret is not None and credentials is not None
            kept = {} if whole or place.kind == "s3" else read_secret(before, secret_key)
            if credentials is not None:
                kept = {name: kept[name] for name in ("secret",) if name in kept}
                kept |= read_credentials(place.kind, credentials)
            if secret:
                kept["secret"] = secret
            stored = lock(stream_id, kept, secret_key)
        chosen = before.levels if levels is None else check_levels(levels)
        # Without the lease, what is on its way to the old destination is not taken for sent to the new one.
        await connection.execute(
            "UPDATE audit_stream SET destination = $2, format = $3, secret = $4, levels = $5, next_at = now(),"
            " lease_token = NULL, lease_until = NULL WHERE id = $1",
            stream_id,
            place.url,
            form or before.format,
            stored,
            chosen,
        )
        after = await find_stream(connection, stream_id)
        diff: list[dict[str, Any]] = [
            {"op": "replace", "path": name, "before": getattr(before, name), "after": getattr(after, name)}
            for name in ("destination", "format", "levels")
            if getattr(before, name) != getattr(after, name)
        ]
        if stored != before.secret:
            diff.append({"op": "replace", "path": "secret", "redacted": True})
        await record(connection, [_event("audit.stream.change", after, actor, diff)])
    return after, secret


def _is_elsewhere(place: Place, before: Stream) -> bool:
    """Tell whether a place is another host or port: who cannot read credentials shall not have them sent there."""
    old = read_place(before.destination)
    return (place.host.lower(), place.port) != (old.host.lower(), old.port)


async def pause_stream(connection: Connection, stream_id: UUID, *, actor: Actor) -> bool:
    """Send nothing more until it is resumed; return whether it was not paused already.

    Raises:
        UsageError: there is no such stream.
    """
    return await _set_state(connection, stream_id, "paused", "audit.stream.pause", actor)


async def resume_stream(connection: Connection, stream_id: UUID, *, actor: Actor) -> bool:
    """Go on where it stopped, at once; return whether it was paused.

    Raises:
        UsageError: there is no such stream.
    """
    return await _set_state(connection, stream_id, "active", "audit.stream.resume", actor)


async def _set_state(connection: Connection, stream_id: UUID, state: str, action: str, actor: Actor) -> bool:
    async with connection.transaction():
        stream = await _hold(connection, stream_id)
        await connection.execute("UPDATE audit_stream SET state = $2, next_at = now() WHERE id = $1", stream_id, state)
        if stream.state == state:
            return False
        diff = [{"op": "replace", "path": "state", "before": stream.state, "after": state}]
        await record(connection, [_event(action, stream, actor, diff)])
    return True


async def remove_stream(connection: Connection, stream_id: UUID, *, actor: Actor) -> None:
    """Send nothing more and forget the stream with its cursor.

    Raises:
        UsageError: there is no such stream.
    """
    async with connection.transaction():
        stream = await _hold(connection, stream_id)
        await connection.execute("DELETE FROM audit_stream WHERE id = $1", stream_id)
        diff = [
            {"op": "remove", "path": "destination", "before": stream.destination},
            {"op": "remove", "path": "format", "before": stream.format},
        ]
        await record(connection, [_event("audit.stream.remove", stream, actor, diff, context={"sent": stream.sent})])
