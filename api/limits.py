"""How much one token may ask of one process: requests a second, and requests under way at once.

A token that sends too much is answered 429 at once and costs next to nothing, so that other tenants' requests find
the connections to the store free. Entra sends about 25 requests a second; the defaults are twenty times that.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.connections import Connection
from models import metrics
from models.errors import RateLimitError

if TYPE_CHECKING:
    from aiohttp import web

    from api.auth import Principal
    from models.settings import Settings

BURST_SECONDS = 2.0
"""As many requests as may come in so many seconds may come all at once."""
LIMITS = ("rate", "in_flight")
_TELL_SECONDS = 60.0
_MOST_TOKENS = 10_000


class OverLimitError(RateLimitError):
    """Too many requests for one token; send this one again after the time in Retry-After."""

    hint = None

    def __init__(self, principal: Principal, reason: str, *, retry_seconds: int, refused: int | None) -> None:
        """Take whose limit it is, which, when to come back, and how many were refused if this one is to be told."""
        super().__init__(retry_seconds=retry_seconds)
        self.tenant_id = principal.tenant_id
        self.actor = principal.actor
        self.reason = reason
        self.refused = refused


@dataclass(slots=True)
class Use:
    """What one token asks of this process."""

    paid_until: float = 0.0
    """Each request moves it on by its share of a second; how far it is ahead of the clock is what there is too many."""
    in_flight: int = 0
    refused: int = 0
    """Since it was last told."""
    told_at: float = -math.inf

    def leave(self) -> None:
        """Note that a request was answered."""
        self.in_flight -= 1


class Limits:
    """Counts what every token asks of this process."""

    def __init__(self, settings: Settings) -> None:
        """Take `token_rate` and `token_in_flight` from the settings."""
        self._seconds = 1 / settings.token_rate if settings.token_rate else 0.0
        self._most = settings.token_in_flight
        self._uses: dict[str | None, Use] = {}

    def enter(self, principal: Principal, request: web.Request) -> Use:
        """Let a request in; whoever calls must have it `leave` when it is answered.

        Raises:
            OverLimitError: 429, the token asks for too much.
        """
        now = time.monotonic()
        use = self._uses.get(principal.actor.id)
        if use is None:
            use = self._begin(principal.actor.id, now)
        ahead = use.paid_until - now
        if ahead > BURST_SECONDS:
            raise _refuse(principal, use, "rate", ahead - BURST_SECONDS, now)
        if use.in_flight >= self._most:
            raise _refuse(principal, use, "in_flight", 1.0, now)
        connection = request.protocol
        if isinstance(connection, Connection):
            connection.known = True
        use.paid_until = (now if ahead < 0 else use.paid_until) + self._seconds
        use.in_flight += 1
        return use

    def charge(self, principal: Principal, operations: int) -> None:
        """Have a request that was let in pay for what it holds beside itself, as operations of a bulk request."""
        use = self._uses.get(principal.actor.id)
        if use is not None:
            use.paid_until = max(use.paid_until, time.monotonic()) + operations * self._seconds

    def _begin(self, token_id: str | None, now: float) -> Use:
        if len(self._uses) >= _MOST_TOKENS:
            self._uses = {key: use for key, use in self._uses.items() if use.in_flight or use.paid_until > now}
        use = self._uses[token_id] = Use()
        return use


def _refuse(principal: Principal, use: Use, reason: str, seconds: float, now: float) -> OverLimitError:
    """Return the refusal; once a minute one of a token's is told to the audit log, with how many there were."""
    metrics.REQUESTS_LIMITED.add(1, reason)
    use.refused += 1
    told = None
    if now - use.told_at >= _TELL_SECONDS:
        told, use.refused, use.told_at = use.refused, 0, now
    return OverLimitError(principal, reason, retry_seconds=max(1, math.ceil(seconds)), refused=told)
