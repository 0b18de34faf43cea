"""HTTPS: lines are posted, signed with HMAC-SHA256; any 2xx confirms them."""

from __future__ import annotations

import hashlib
import hmac
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import aiohttp

    from worker.destinations.delivery import Means
    from worker.destinations.parcel import Parcel


def signature(secret: str, moment: int, body: bytes) -> str:
    """Return the header `Usher-Signature`: `t=SECONDS,v1=HEX`, HMAC-SHA256 of seconds, a full stop and the body.

    Args:
        secret: as `usher audit stream add` showed it.
        moment: seconds since 1970, so that a receiver can refuse what is old.
        body: as it is sent.
    """
    digest = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256)
    return f"t={moment},v1={digest.hexdigest()}"


@asynccontextmanager
async def open_destination(means: Means) -> AsyncIterator[HttpsDestination]:
    """Make what posts to the place."""
    async with means.session() as session:
        yield HttpsDestination(means, session)


class HttpsDestination:
    """Posts to one place."""

    def __init__(self, means: Means, session: aiohttp.ClientSession) -> None:
        """Take a session that goes through the gate."""
        self._means = means
        self._session = session

    async def send(self, parcel: Parcel) -> None:
        """Post a parcel.

        Raises:
            DeliveryError: no 2xx in time.
        """
        body, moment = parcel.body(), int(time.time())
        secret = self._means.secret
        headers = {
            "Content-Type": "application/x-ndjson",
            "User-Agent": "Usher",
            "Usher-Stream": self._means.stream_id,
            "Usher-Signature": signature(secret["secret"], moment, body),
        }
        if "authorization" in secret:
            headers["Authorization"] = secret["authorization"]
        await self._means.request(self._session, "POST", self._means.place.url, headers, body)
