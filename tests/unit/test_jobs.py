from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import PermanentJobError
from models.jobs import KINDS, QUEUES, Kind, _describe, read_job, redis_queue

if TYPE_CHECKING:
    from random import Random


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_kind_has_a_queue_and_more_than_one_attempt(kind: Kind) -> None:
    assert KINDS[kind.name] is kind
    assert kind.queue in QUEUES
    assert kind.max_attempts > 1
    assert 0 < kind.first_delay_seconds < kind.longest_delay_seconds


def test_the_queues_are_told_apart_in_redis() -> None:
    assert [redis_queue(queue) for queue in QUEUES] == ["usher:provision", "usher:email"]


@given(
    attempts=st.integers(1, 10_000),
    first=st.floats(0.1, 10),
    longest=st.floats(10, 10_000),
    dice=st.randoms(use_true_random=False),
)
def test_the_delay_doubles_up_to_the_longest_with_a_quarter_of_jitter(
    attempts: int, first: float, longest: float, dice: Random
) -> None:
    kind = Kind("x", "provision", max_attempts=5, first_delay_seconds=first, longest_delay_seconds=longest)
    undisturbed = min(first * 2.0 ** min(attempts - 1, 100), longest)
    assert 0.75 * undisturbed <= kind.delay(attempts, dice) <= 1.25 * undisturbed


def test_delays_of_jobs_that_failed_together_differ() -> None:
    kind = KINDS["user.create"]
    assert len({kind.delay(3) for _ in range(50)}) > 40


@pytest.mark.parametrize("payload", [None, [], "text", 3, True])
def test_a_payload_that_is_no_object_reads_as_an_empty_one(payload: object) -> None:
    row: Any = {"id": uuid4(), "tenant_id": uuid4(), "kind": "user.create", "resource_id": None, "attempts": 1}
    row |= {"payload": payload, "correlation_id": uuid4(), "staged_at": None}
    assert read_job(row).payload == {}


def test_what_the_driver_repeats_of_rows_and_parameters_is_not_told() -> None:
    refused = asyncpg.UniqueViolationError("duplicate key value violates unique constraint")
    refused.detail = "Key (user_name)=(ana@example.com) already exists."
    assert "ana@example.com" in str(refused)
    assert _describe(refused) == "duplicate key value violates unique constraint"
    unfit = asyncpg.DataError("invalid input for query argument $1: 'ana@example.com' (expected int)")
    assert _describe(unfit) == "invalid input for query argument $1"
    unfit_for_client = asyncpg.InterfaceError("the server expects 1 argument: ['ana@example.com']")
    assert _describe(unfit_for_client) == "the server expects 1 argument"
    assert _describe(PermanentJobError("code", "A sentence: with a colon.")) == "A sentence: with a colon."
