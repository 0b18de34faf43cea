"""Changing users: read, apply, write back if nobody was faster; many users in one statement.

Requests that arrive together share a read and a commit. What is decided on a document that another write has
replaced meanwhile is decided again on the new one, so no change is lost.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import asyncpg
import orjson

from models import metrics
from models.audit.actions import ACTIONS, Action
from models.audit.redact import keep
from models.batch import Batcher
from models.db import ACQUIRE_SECONDS, is_unavailable, named_tenants, tenant_scope
from models.directory.read import Stored, as_uuid, read_stored
from models.directory.write_sql import KNOWN, LOCK, READ, RELEASE, RESERVE, WRITE
from models.errors import InvalidValueError, NotFoundError, UnavailableError, UniquenessError
from models.ids import new_id
from models.jobs import EMAIL, KINDS
from models.provision import settle
from models.scim.diff import net_diff
from models.scim.document import known_user
from models.scim.json import dumps
from models.scim.schema import ENTERPRISE_URN, USER, compare_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from models.audit.record import Actor
    from models.db import Connection
    from models.scim.document import UserDocument
    from models.scim.patch import Patched
    from models.scim.schema import ResourceSchema
    from models.settings import Settings

    _Key = tuple[UUID, UUID]
    """A tenant and a user of it."""

_UPDATE = ACTIONS["scim.user.update"]
_DISABLE = ACTIONS["scim.user.disable"]
_ENABLE = ACTIONS["scim.user.enable"]
_INVITE = KINDS["invitation.send"]
_OPTIMISTIC = 3  # tries before a write locks the user first


@dataclass(frozen=True, slots=True)
class Change:
    """A write to one user that somebody asks for."""

    tenant_id: UUID
    user_id: UUID
    edit: Callable[[dict[str, Any]], Patched]
    """Returns what becomes of a document; called again when another write was faster."""
    check: Callable[[int], None]
    """Raises when the request is not meant for this version."""
    actor: Actor
    correlation_id: UUID
    context: dict[str, Any]
    schema: ResourceSchema = USER
    """What the tenant's users may hold."""
    groups_at: str | None = None
    """The SCIM base URL, when the user is wanted with its groups."""


@dataclass(frozen=True, slots=True)
class _Draft:
    """What a change comes to on one state of the user."""

    change: Change
    before: Stored
    old: dict[str, Any]
    user: UserDocument
    doc: str
    diff: list[dict[str, Any]]

    @property
    def old_key(self) -> str:
        return compare_key(self.old["userName"])

    @property
    def renamed(self) -> bool:
        return self.user.user_name != self.old["userName"] and self.user.user_name_key != self.old_key

    def manager(self) -> str | None:
        """Return the id of a manager who was not the user's before."""
        new = _manager(self.user.doc)
        return None if new is None or new == _manager(self.old) else new

    def invite(self) -> str | None:
        """Return where an invitation goes if the user can be invited now and could not before."""
        if not self.diff or not self.user.active or self.user.primary_email is None:
            return None
        if self.old.get("active", True) and self.old.get("emails") == self.user.doc.get("emails"):
            return None  # nothing that decides it has changed, as with nearly every write
        old = known_user(self.old)
        return None if old.active and old.primary_email is not None else self.user.primary_email

    @property
    def action(self) -> Action:
        """What the audit log calls it."""
        if self.user.active == self.old.get("active", True):
            return _UPDATE
        return _ENABLE if self.user.active else _DISABLE

    def row(self) -> tuple[Any, ...]:
        """Return what `WRITE` takes of it."""
        change, user, action = self.change, self.user, self.action
        return (
            change.tenant_id,
            change.user_id,
            self.before.version,
            bool(self.diff),
            self.doc,
            user.external_id,
            orjson.dumps(user.work_email_keys).decode(),
            user.active,
            self.invite(),
            new_id(),
            new_id(),
            new_id(),
            action.name,
            action.severity,
            change.actor.type,
            change.actor.id,
            change.actor.label,
            orjson.dumps([user_target(change.user_id, user.doc)]).decode(),
            change.correlation_id,
            orjson.dumps(change.context).decode(),
            dumps(keep(self.diff)).decode(),
        )


def _manager(doc: dict[str, Any]) -> str | None:
    enterprise = doc.get(ENTERPRISE_URN)
    if not enterprise:
        return None
    value: str | None = enterprise.get("manager", {}).get("value")
    return value


def user_target(user_id: UUID, doc: dict[str, Any]) -> dict[str, Any]:
    """Return a user as an audit event's target."""
    target = {"type": "User", "id": str(user_id), "label": doc["userName"]}
    if "externalId" in doc:
        target["external_id"] = doc["externalId"]
    return target


async def check_manager(store: asyncpg.Pool | Connection, tenant_id: UUID, doc: dict[str, Any]) -> None:
    """See that a document's manager, if it has one, is a user of this tenant, applied or waiting.

    Raises:
        InvalidValueError: it is not; the text is the same for another tenant's user (entra-cases.md 90, 143).
    """
    manager = _manager(doc)
    if manager is None:
        return
    manager_id = as_uuid(manager)
    if manager_id is None or not await store.fetchval(KNOWN, tenant_id, manager_id):
        raise InvalidValueError("manager must be the id of a user; there is none with this id.")


class UserWriter:
    """Changes users for one process."""

    def __init__(self, pool: asyncpg.Pool, settings: Settings, ring: Callable[[str, list[UUID]], None]) -> None:
        """Take the pool to commit on, the limits, and ``ring(queue, job ids)``, called after each commit."""
        self._pool = pool
        self._ring = ring
        self._turns: WeakValueDictionary[_Key, asyncio.Lock] = WeakValueDictionary()
        limit, in_flight = settings.intake_batch, settings.intake_in_flight
        self._reads: Batcher[Change, tuple[Stored, bool] | None] = Batcher(
            self._read, limit=limit, in_flight=in_flight, isolate=_may_be_ones, apart=lambda change: change.tenant_id
        )
        self._writes: Batcher[_Draft, Stored | None] = Batcher(
            self._write_many, limit=limit, in_flight=in_flight, isolate=_may_be_ones
        )

    async def update(self, change: Change) -> Stored:
        """Carry a change out and return the user as it is now; the same version when nothing had to change.

        Raises:
            NotFoundError: there is no such user.
            UniquenessError: the new userName is taken.
            InvalidValueError: the new manager is no user of this tenant.
            UnavailableError: the store did not come to it.
            ClientError: whatever ``change.edit`` and ``change.check`` raise. Nothing is changed then.
            asyncpg.PostgresError, OSError: the store did not take it, or (connection lost during the commit) it
                cannot be known.
        """
        # One at a time for each user: those who wait see what those before them did.
        async with self._turns.setdefault((change.tenant_id, change.user_id), asyncio.Lock()):
            for _ in range(_OPTIMISTIC):
                found = await self._reads.submit(change)
                if found is None:
                    raise NotFoundError("There is no user with this id.")
                before, waiting = found
                draft = await self._draft(change, before, self._pool)
                if draft.diff and (waiting or draft.renamed):
                    break
                written = await self._writes.submit(draft)
                if written is not None:
                    return written
            return await self._update_locked(change)

    async def _draft(self, change: Change, before: Stored, store: asyncpg.Pool | Connection) -> _Draft:
        change.check(before.version)
        old = orjson.loads(before.doc)
        patched = change.edit(old)
        user = known_user(patched.doc)
        diff = net_diff(old, user.doc, change.schema) if patched.changed else []
        draft = _Draft(change, before, old, user, dumps(user.doc).decode() if diff else before.doc, diff)
        if draft.manager() is not None:
            await check_manager(store, change.tenant_id, user.doc)
        return draft

    async def _update_locked(self, change: Change) -> Stored:
        """Change a user in a transaction of its own that has its row: one that waits, or gets another userName."""
        for _ in range(_OPTIMISTIC):
            written = await self._update_once(change)
            if written is not None:
                return written
        raise UnavailableError("The user is being changed by many at once; please try again.")

    async def _update_once(self, change: Change) -> Stored | None:
        """Return None, and change nothing, if somebody else had the user first: this is to come after it on record."""
        tenant_id, user_id = change.tenant_id, change.user_id
        async with tenant_scope(self._pool, [tenant_id]) as connection:
            invitations = await settle(connection, tenant_id, user_id)
            row = await connection.fetchrow(LOCK, tenant_id, user_id, change.groups_at)
            if row is None:
                raise NotFoundError("There is no user with this id.")
            if invitations is None and row["waited"]:
                return None
            draft = await self._draft(change, read_stored(row), connection)
            if draft.renamed:
                await _rename(connection, draft)
            [written], due = await _write(connection, [draft])
        if written is not None and (invitations or due):
            self._ring(EMAIL, [*(invitations or []), *due])
        return written

    async def _read(self, changes: Sequence[Change]) -> list[tuple[Stored, bool] | None]:
        async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
            rows = await connection.fetch(
                READ,
                changes[0].tenant_id,
                [change.user_id for change in changes],
                [change.groups_at for change in changes],
            )
        found = {row["place"]: (read_stored(row), row["waiting"]) for row in rows}
        return [found.get(place) for place in range(1, len(changes) + 1)]

    async def _write_many(self, drafts: Sequence[_Draft]) -> list[Stored | None]:
        async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
            written, due = await _write(connection, drafts)
        if due:
            self._ring(EMAIL, due)
        return written

    async def close(self) -> None:
        """Wait for the reads and commits that are under way."""
        await self._reads.drain()
        await self._writes.drain()


def _may_be_ones(error: BaseException) -> bool:
    return isinstance(error, asyncpg.PostgresError) and not is_unavailable(error)


async def _rename(connection: Connection, draft: _Draft) -> None:
    """Take the new userName before the old one is given back, so that two who swap theirs do not wait in a circle."""
    change = draft.change
    key = draft.user.user_name_key
    if await connection.fetchval(RESERVE, change.tenant_id, key, change.user_id) is None:
        raise UniquenessError("Another user has this userName already (letter case does not matter).")
    await connection.execute(RELEASE, change.tenant_id, draft.old_key, change.user_id)


async def _write(connection: Connection, drafts: Sequence[_Draft]) -> tuple[list[Stored | None], list[UUID]]:
    """Write changes of different users in one statement.

    Returns:
        For each the user as it is now, or None if it has another version than the one that was read; and the
        invitation jobs that are due.
    """
    columns = map(list, zip(*(draft.row() for draft in drafts), strict=True))
    rows = await connection.fetch(WRITE, *columns, named_tenants({draft.change.tenant_id for draft in drafts}))
    modified = {(row["tenant_id"], row["id"]): row["last_modified"] for row in rows}
    written: list[Stored | None] = []
    for draft in drafts:
        before, key = draft.before, (draft.change.tenant_id, draft.change.user_id)
        if not draft.diff:
            written.append(before)
        elif key in modified:
            version = before.version + 1
            written.append(replace(before, doc=draft.doc, version=version, last_modified=modified[key]))
        else:
            written.append(None)
            continue
        metrics.AUDIT_EVENTS.add(1, draft.action.name, "success")
    if invited := sum(row["job_id"] is not None for row in rows):
        metrics.JOBS_STAGED.add(invited, _INVITE.queue, _INVITE.name)
    return written, [row["job_id"] for row in rows if row["due"]]
