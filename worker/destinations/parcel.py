"""What a destination is given to send, and what it may fail with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from models.audit.stream_lines import as_lines
from models.errors import UsherError


class DeliveryError(UsherError):
    """A parcel was not confirmed."""

    def __init__(self, code: str) -> None:
        """Take a bounded code, without anything that the place said."""
        super().__init__(f"It was not confirmed: {code}.")
        self.code = code


@dataclass(frozen=True, slots=True)
class Parcel:
    """Events that are sent together."""

    whole: list[dict[str, Any]]
    """As they are kept: for headers and names, not to be sent."""
    left: list[dict[str, Any]]
    """As they may leave."""

    def body(self) -> bytes:
        """Return them as NDJSON."""
        return as_lines(self.left)


class Destination(Protocol):
    """Sends parcels to one place."""

    async def send(self, parcel: Parcel) -> None:
        """Send a parcel and return once the place has confirmed it.

        Raises:
            DeliveryError: it did not, in time.
        """
