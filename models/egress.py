"""Which addresses outside Usher may connect to when somebody else names the destination (SSRF).

The address is judged when the socket to it is made, so it is the very one that is connected to: whatever a name
resolves to a moment later, and wherever a redirect would lead, nothing else is reached.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    Address = IPv4Address | IPv6Address
    Network = IPv4Network | IPv6Network

# What `ipaddress` calls global although it leads back to us or to nobody: relays, translations, old forms, and a
# range for documentation (3fff::/20) that Python does not know of before 3.13.
_ALSO_REFUSED: Final = tuple(
    ip_network(text)
    for text in (
        *("192.88.99.0/24", "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16", "3fff::/20"),
        "fec0::/10",
    )
)

_MAPPED: Final = IPv6Network("::ffff:0:0/96")


class RefusedAddressError(OSError):
    """The address is not one that may be connected to."""


def plain(address: Address) -> Address:
    """Return the IPv4 address that an IPv4-mapped IPv6 address stands for; any other as it is."""
    return getattr(address, "ipv4_mapped", None) or address


def plain_network(network: Network) -> Network:
    """Return the IPv4 network that one of IPv4-mapped IPv6 addresses stands for; any other as it is."""
    if network.version == 6 and network.prefixlen >= _MAPPED.prefixlen and network.network_address in _MAPPED:
        within = int(network.network_address) - int(_MAPPED.network_address)
        return IPv4Network((within, network.prefixlen - _MAPPED.prefixlen))
    return network


def is_public(address: Address) -> bool:
    """Tell whether an address is somebody's on the internet: not private, local, reserved, multicast or a relay's."""
    address = plain(address)
    return (
        address.is_global
        and not (address.is_multicast or address.is_reserved or address.is_unspecified)
        and not any(address in network for network in _ALSO_REFUSED if network.version == address.version)
    )


class Gate:
    """Lets connections out to public addresses, and to those of networks that the settings allow."""

    def __init__(self, allowed: Iterable[Network] = ()) -> None:
        """Take the networks that are allowed though they are not public."""
        self._allowed = tuple(map(plain_network, allowed))
        self.refused = False
        """Whether a connection was refused since this was made."""

    def admits(self, text: str) -> bool:
        """Tell whether an address, as `getaddrinfo` writes it, may be connected to."""
        address = plain(ip_address(text.partition("%")[0]))
        if any(address in network for network in self._allowed if network.version == address.version):
            return True
        return is_public(address)

    def socket(self, info: tuple[Any, ...]) -> socket.socket:
        """Make a socket for one answer of `getaddrinfo`; aiohttp takes this as its `socket_factory`.

        Raises:
            RefusedAddressError: the address is refused.
        """
        family, kind, protocol, _, place = info
        if not self.admits(place[0]):
            self.refused = True
            raise RefusedAddressError("the address is not public, and USHER_AUDIT_STREAM_ALLOW does not name it")
        return socket.socket(family, kind, protocol)
