"""Who sends a request: bearer tokens, looked up once every few seconds and compared in constant time."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import structlog

from models import metrics
from models.audit.record import Actor
from models.db import is_unavailable
from models.directory.schemas import compile_schemas
from models.errors import ForbiddenError, UnauthenticatedError, UnavailableError
from models.tokens import TokenRecord, find_token, refusal, split_token, touch_tokens

if TYPE_CHECKING:
    from uuid import UUID

    import asyncpg
    from aiohttp import web

    from models.directory.schemas import TenantSchemas
    from models.settings import Settings

_Known = tuple[float, TokenRecord | None]
"""Until which moment of the monotonic clock it may be trusted, and what was read."""

_MOST_CACHED = 10_000
_TOUCH_SECONDS = 5.0
_READ_SECONDS = 5.0

_log = structlog.get_logger("auth")


@dataclass(frozen=True, slots=True)
class Principal:
    """The tenant that a request speaks for, and the token that says so."""

    tenant_id: UUID
    actor: Actor
    schemas: TenantSchemas
    """What users and groups of the tenant may hold; as old as what is known of the token, seconds."""
    capture_until: datetime | None = None
    """Until when the tenant's bodies are kept for operators."""


class RefusedError(UnauthenticatedError):
    """The token is missing, malformed, unknown, revoked or expired; the body does not say which."""

    def __init__(self, reason: str, *, tenant_id: UUID | None = None, hint: str | None = None) -> None:
        super().__init__(
            "A valid bearer token is required. Copy the Secret Token into the provisioning settings again,"
            " or issue a new one with `usher token issue`."
        )
        self.reason = reason
        self.tenant_id = tenant_id
        self.hint = hint
        """A short keyed hash of what was presented: tells one stale token from many guesses."""


class OutOfScopeError(ForbiddenError):
    """The token is good, but not for this."""

    reason = "scope"
    hint = None

    def __init__(self, scope: str, *, tenant_id: UUID, actor: Actor) -> None:
        super().__init__(f"This token does not have the scope {scope}.")
        self.tenant_id = tenant_id
        self.actor = actor


def _refuse(reason: str, *, tenant_id: UUID | None = None, hint: str | None = None) -> RefusedError:
    metrics.AUTH_FAILURES.add(1, reason)
    return RefusedError(reason, tenant_id=tenant_id, hint=hint)


class TokenCache:
    """The tokens that this process has seen lately; a revoked one ends within `token_cache_seconds`."""

    def __init__(self, pool: asyncpg.Pool, settings: Settings) -> None:
        self._pool = pool
        self._trust_seconds = settings.token_cache_seconds
        self._hint_key = hmac.digest(settings.secret_key.get_secret_value().encode(), b"usher token hint", "sha256")
        self._known: dict[str, _Known] = {}
        self._reading: dict[str, asyncio.Task[_Known]] = {}
        self._verified: dict[tuple[bytes, str], tuple[float, Principal]] = {}
        self._used: dict[str, datetime] = {}
        self._touching: asyncio.Task[None] | None = None

    async def _find(self, token_id: str) -> _Known:
        known = self._known.get(token_id)
        if known is not None and known[0] > time.monotonic():
            return known
        # However many requests miss at once, one of them asks the store.
        reading = self._reading.get(token_id)
        if reading is None:
            reading = asyncio.get_running_loop().create_task(self._read(token_id))
            self._reading[token_id] = reading
            reading.add_done_callback(lambda _: self._reading.pop(token_id, None))
        return await asyncio.shield(reading)

    async def _read(self, token_id: str) -> _Known:
        asked = time.monotonic()
        # Bounded by itself: whoever comes later waits for this very look, not for one of their own.
        async with asyncio.timeout(_READ_SECONDS):
            record = await find_token(self._pool, token_id)
        if len(self._known) >= _MOST_CACHED:
            self._known.clear()
        known = self._known[token_id] = (asked + self._trust_seconds, record)
        return known

    async def authenticate(self, header: str | None, scope: str) -> Principal:
        """Return whom the Authorization header speaks for.

        Raises:
            RefusedError: 401, with the reason for the audit log.
            OutOfScopeError: 403, a good token without ``scope``.
            UnavailableError: the token store does not answer; never a 401, which Entra would quarantine.
        """
        # By its hash, so that no secret stays in memory; a hash tells a guesser nothing by how long it takes.
        key = (hashlib.sha256((header or "").encode(errors="replace")).digest(), scope)
        verified = self._verified.get(key)
        if verified is not None and verified[0] > time.monotonic():
            self._note_use(verified[1])
            return verified[1]
        scheme, _, text = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            raise _refuse("missing")
        text = text.strip()
        parts = split_token(text)
        if parts is None:
            raise _refuse("malformed", hint=self._hint(text))
        token_id, secret = parts
        try:
            trusted_until, token = await self._find(token_id)
        except Exception as error:
            if is_unavailable(error):
                raise UnavailableError("The token store does not answer; please try again.") from error
            raise
        now = datetime.now(UTC) if token is None else self._clock(trusted_until, token)
        reason = refusal(token, secret, scope, now)
        if reason == "scope" and token is not None:
            metrics.AUTH_FAILURES.add(1, reason)
            raise OutOfScopeError(scope, tenant_id=token.tenant_id, actor=Actor("token", token.id, token.label))
        if reason is not None or token is None:
            known = token is not None and reason != "unknown"
            raise _refuse(
                reason or "unknown",
                tenant_id=token.tenant_id if known and token else None,
                hint=self._hint(text),
            )
        principal = Principal(
            token.tenant_id,
            Actor("token", token.id, token.label),
            compile_schemas(token.schemas),
            token.capture_until if token.capture_until is not None and token.capture_until > now else None,
        )
        ends_at = min(token.expires_at, token.revoked_at or token.expires_at)
        trusted_until = min(trusted_until, time.monotonic() + (ends_at - now).total_seconds())
        if len(self._verified) >= _MOST_CACHED:
            self._verified.clear()
        self._verified[key] = (trusted_until, principal)
        self._note_use(principal)
        return principal

    def _clock(self, trusted_until: float, token: TokenRecord) -> datetime:
        """Return the moment by the database's clock, from when it was read with the token."""
        asked = trusted_until - self._trust_seconds
        return token.read_at + timedelta(seconds=time.monotonic() - asked)

    def _hint(self, text: str) -> str:
        """Return what groups attempts with one token; without the key it tells nothing of the token."""
        return hmac.digest(self._hint_key, text.encode(errors="replace"), "sha256").hex()[:12]

    def _note_use(self, principal: Principal) -> None:
        if principal.actor.id is not None:
            self._used[principal.actor.id] = datetime.now(UTC)
        if self._touching is None or self._touching.done():
            self._touching = asyncio.get_running_loop().create_task(self._touch())

    async def _touch(self) -> None:
        await asyncio.sleep(_TOUCH_SECONDS)
        await self._write_use()

    async def _write_use(self) -> None:
        used, self._used = self._used, {}
        if not used:
            return
        try:
            await touch_tokens(self._pool, used)
        except Exception as error:  # noqa: BLE001  "last used" is a convenience, not worth a failed request
            _log.warning("The use of tokens was not noted", action="token.touch", error=type(error).__name__)

    async def close(self) -> None:
        """Note the last uses."""
        if self._touching is not None:
            self._touching.cancel()
        await self._write_use()


def authorization(request: web.Request) -> str | None:
    """Return the request's Authorization header."""
    return request.headers.get("Authorization")
