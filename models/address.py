"""Telling whether a text can be an e-mail address."""

from __future__ import annotations

from email.errors import HeaderParseError
from email.headerregistry import Address


def is_address(text: str) -> bool:
    """Tell whether ``text`` is one bare e-mail address (RFC 5322 addr-spec); any domain may be in it.

    Addresses inside a house (`it@corp.local`, `invitations@usher.localhost`) count, display names do not.
    """
    if not text.isprintable() or " " in text:
        return False
    try:
        address = Address(addr_spec=text)
    except (HeaderParseError, ValueError, IndexError):
        return False
    return bool(address.username and address.domain) and address.addr_spec == text
