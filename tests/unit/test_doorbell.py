from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

from models.doorbell import LONGEST_RING, Doorbell


async def test_rings_during_a_ring_go_together() -> None:
    pressed: list[tuple[str, list[UUID]]] = []
    gate, begun = asyncio.Event(), asyncio.Event()

    async def press(queue: str, job_ids: list[UUID]) -> None:
        pressed.append((queue, job_ids))
        begun.set()
        await gate.wait()

    doorbell = Doorbell(press)
    ids = [uuid4() for _ in range(4)]
    doorbell.ring("provision", ids[:1])
    await begun.wait()
    doorbell.ring("provision", ids[1:2])
    doorbell.ring("email", ids[3:])
    doorbell.ring("provision", ids[2:3])
    gate.set()
    await doorbell.close()
    assert pressed == [("provision", ids[:1]), ("provision", ids[1:3]), ("email", ids[3:])]


async def test_a_ring_has_a_longest_length() -> None:
    pressed: list[int] = []

    async def press(_: str, job_ids: list[UUID]) -> None:
        pressed.append(len(job_ids))

    doorbell = Doorbell(press)
    doorbell.ring("provision", [uuid4() for _ in range(LONGEST_RING + 5)])
    await doorbell.close()
    assert pressed == [LONGEST_RING]


async def test_a_silent_bell_disturbs_nobody_and_says_so_to_the_neighbour() -> None:
    unanswered: list[str] = []

    async def press(_: str, __: list[UUID]) -> None:
        raise OSError("refused")

    doorbell = Doorbell(press, unanswered=unanswered.append)
    doorbell.ring("provision", [uuid4()])
    await doorbell.close()
    assert unanswered == ["provision"]
