"""The only place of the api that touches arq: ringing for staged jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from arq.connections import ArqRedis
from redis.asyncio import ConnectionPool

from models.doorbell import Doorbell
from models.jobs import RUN_JOBS, redis_queue

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from models.settings import Settings


class Ring:
    """The doorbell of an api process."""

    def __init__(self, settings: Settings) -> None:
        self._redis = ArqRedis(
            ConnectionPool.from_url(
                settings.redis_url.get_secret_value(), socket_timeout=2, socket_connect_timeout=2, max_connections=4
            ),
            job_serializer=orjson.dumps,
            job_deserializer=orjson.loads,
            expires_extra_ms=7 * 24 * 3600 * 1000,
        )
        self.doorbell = Doorbell(self._press)

    async def _press(self, queue: str, job_ids: list[UUID]) -> None:
        await self._redis.enqueue_job(RUN_JOBS, [str(job_id) for job_id in job_ids], _queue_name=redis_queue(queue))

    def ring(self, queue: str, job_ids: list[UUID]) -> None:
        """Ring for jobs of a queue; returns at once and never raises."""
        self.doorbell.ring(queue, job_ids)

    async def ping(self) -> bool:
        """Tell whether Redis answers."""
        try:
            return bool(await self._redis.ping())
        except Exception:  # noqa: BLE001  however it fails, Redis does not answer
            return False

    async def waiting(self, queue: str) -> int:
        """Return how many rings for a queue nobody has answered yet; raises however it fails."""
        return int(await self._redis.zcard(redis_queue(queue)))

    async def info(self) -> Mapping[str, object]:
        """Return what Redis says of itself; raises however it fails."""
        found: Mapping[str, object] = await self._redis.info()
        return found

    async def close(self) -> None:
        """Let the last ring arrive and hang up."""
        await self.doorbell.close()
        await self._redis.aclose(close_connection_pool=True)
