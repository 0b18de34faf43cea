"""Merkle trees, against the recursive definition of RFC 6962 §2.1."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.audit.merkle import path_of, root_from, root_of

LEAVES = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=70)


def by_definition(leaves: list[bytes]) -> bytes:
    """MTH(D[n]) over leaves that are hashed already."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    half = 1 << ((len(leaves) - 1).bit_length() - 1)
    return sha256(b"\1" + by_definition(leaves[:half]) + by_definition(leaves[half:])).digest()


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=70))
def test_the_root_is_that_of_the_rfc(leaves: list[bytes]) -> None:
    assert root_of(leaves) == by_definition(leaves)


@given(LEAVES, st.data())
def test_a_path_leads_from_its_leaf_to_the_root_and_from_no_other(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = path_of(leaves, index)
    assert root_from(leaves[index], index, len(leaves), path) == root_of(leaves)
    assert root_from(bytes(32), index, len(leaves), path) != root_of(leaves) or leaves[index] == bytes(32)
    assert root_from(leaves[index], index, len(leaves), [*path, bytes(32)]) is None
    if path:
        assert root_from(leaves[index], index, len(leaves), path[:-1]) is None


def test_a_leaf_that_there_is_not_has_no_path() -> None:
    with pytest.raises(IndexError):
        path_of([bytes(32)], 1)
