"""Merkle trees as RFC 6962 §2.1 has them, over leaves that are hashed already."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

EMPTY_ROOT = sha256(b"").digest()


def _parents(level: Sequence[bytes]) -> list[bytes]:
    above = [sha256(b"\1" + left + right).digest() for left, right in zip(level[::2], level[1::2], strict=False)]
    if len(level) % 2:
        above.append(level[-1])
    return above


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Return the root over leaves of 32 bytes each; of none it is the hash of nothing."""
    if not leaves:
        return EMPTY_ROOT
    level = leaves
    while len(level) > 1:
        level = _parents(level)
    return level[0]


def path_of(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the audit path of a leaf (RFC 6962 §2.1.1): the hashes from which, with it, the root follows.

    Raises:
        IndexError: there is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise IndexError(index)
    path = []
    level = leaves
    while len(level) > 1:
        beside = index ^ 1
        if beside < len(level):
            path.append(level[beside])
        level = _parents(level)
        index //= 2
    return path


def root_from(leaf: bytes, index: int, count: int, path: Sequence[bytes]) -> bytes | None:
    """Return the root that an audit path leads to, or None if it has not the length of one."""
    node, last, rest = leaf, count - 1, list(path)
    while last > 0:
        beside = index ^ 1
        if beside <= last:
            if not rest:
                return None
            other = rest.pop(0)
            node = sha256(b"\1" + (other + node if index % 2 else node + other)).digest()
        index //= 2
        last //= 2
    return None if rest else node
