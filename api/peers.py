"""Whose address a request comes from, also behind proxies; the one place that reads X-Forwarded-For."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web

    from models.settings import Settings

_HEADER = "X-Forwarded-For"
# As proxies write it: an address, one with a port, an IPv6 one in brackets with or without.
_HOP = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::\d{1,5})?|(\d+\.\d+\.\d+\.\d+)(?::\d{1,5})?|([0-9A-Fa-f:.]+)")
_MOST_HOPS = 32


class Peers:
    """Tells addresses of clients, believing the proxies of `trusted_proxies` and nobody else."""

    def __init__(self, settings: Settings) -> None:
        """Take the networks that proxies of our own are in."""
        self._networks = settings.trusted_proxies
        self.trusts = lru_cache(maxsize=1024)(self._trusts)

    def of(self, request: web.Request) -> str | None:
        """Return the address of whoever sent a request: the last one that no trusted proxy has.

        What stands to the left of it was written by that client and may be anything.
        """
        remote = request.remote
        if not self._networks or remote is None or not self.trusts(remote):
            return remote
        believed = remote
        hops = ",".join(request.headers.getall(_HEADER, ())).split(",")
        for hop in reversed(hops[-_MOST_HOPS:]):
            match = _HOP.fullmatch(hop.strip())
            address = _address(match[match.lastindex or 0]) if match else None
            if address is None:
                break  # whoever wrote that is the last whom we can name
            believed = str(address)
            if not self.trusts(believed):
                break
        return believed

    def _trusts(self, address: str) -> bool:
        parsed = _address(address)
        return parsed is not None and any(parsed in network for network in self._networks)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Return an address; one of IPv4 that is written as IPv6 as what it is."""
    try:
        parsed = ip_address(text)
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed
