"""S3-compatible storage: each parcel an object of gzip lines, named so that names sort as the events do.

An object's name follows from its first event and their number, and so from its events: none can come between. A parcel
that is sent again, because nobody knew whether it arrived, takes the place of the object that it would otherwise
repeat; one that was cut elsewhere has another name, so that it does not matter which of the two arrives last.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from base64 import b64encode
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from botocore.auth import S3SigV4Auth  # type: ignore[import-untyped]  # ships no types
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]  # as above
from botocore.credentials import Credentials  # type: ignore[import-untyped]  # as above

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import aiohttp

    from worker.destinations.delivery import Means
    from worker.destinations.parcel import Parcel


def object_name(prefix: str, stream_id: str, events: Sequence[dict[str, Any]]) -> str:
    """Return the name of an object: folder of its first event's day, its transaction, moment and id, and the count."""
    first = events[0]
    at = datetime.fromisoformat(first["occurred_at"])
    name = f"{int(first['xid']):020d}-{at:%Y%m%dT%H%M%SZ}-{first['id']}-{len(events)}.jsonl.gz"
    return "/".join(filter(None, (prefix, stream_id, f"{at:%Y/%m/%d}", name)))


@asynccontextmanager
async def open_destination(means: Means) -> AsyncIterator[S3Destination]:
    """Make what puts objects into the place's bucket."""
    async with means.session() as session:
        yield S3Destination(means, session)


class S3Destination:
    """Puts objects into one bucket."""

    def __init__(self, means: Means, session: aiohttp.ClientSession) -> None:
        """Take a session that goes through the gate."""
        self._means = means
        self._session = session

    async def send(self, parcel: Parcel) -> None:
        """Put a parcel as one object.

        Raises:
            DeliveryError: the service did not take it, in time.
        """
        body = await asyncio.to_thread(_packed, parcel)
        place, secret = self._means.place, self._means.secret
        name = object_name(place.prefix, self._means.stream_id, parcel.whole)
        url = f"{place.endpoint}/{quote(place.bucket)}/{quote(name)}"
        headers = {
            "Content-Type": "application/gzip",
            # What buckets with object lock ask for, and every service knows; newer checksums some do not.
            "Content-MD5": b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode(),
        }
        request = AWSRequest("PUT", url, headers, body)
        S3SigV4Auth(Credentials(secret["access_key"], secret["secret_key"]), "s3", place.region).add_auth(request)
        await self._means.request(self._session, "PUT", url, dict(request.headers.items()), body)


def _packed(parcel: Parcel) -> bytes:
    return gzip.compress(parcel.body(), mtime=0)  # the same events make the same object
