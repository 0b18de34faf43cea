"""Where streams of audit events go: one module a kind, all reached over TLS and through the same gate.

This imports clients of HTTP and of S3: a worker without streams does not.

A new kind is a module with `open_destination` and a line here, and one in `models.audit.stream_place`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from models.audit.stream_place import read_place
from worker.destinations import https, s3, syslog
from worker.destinations.delivery import Means

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from models.audit.streams import Stream
    from models.settings import Settings
    from worker.destinations.parcel import Destination

_KINDS: Final[dict[str, Callable[[Means], AbstractAsyncContextManager[Destination]]]] = {
    "https": https.open_destination,
    "s3": s3.open_destination,
    "syslog": syslog.open_destination,
}


def open_destination(
    stream: Stream, secret: dict[str, str], settings: Settings
) -> AbstractAsyncContextManager[Destination]:
    """Make what sends to a stream's place; nothing is connected to before the first parcel.

    Raises:
        DeliveryError: on entering, the authorities to trust cannot be read.
    """
    means = Means(read_place(stream.destination), str(stream.id), secret, settings)
    return _KINDS[stream.kind](means)
