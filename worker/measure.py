"""What the runner counts for `/metrics`: a few additions a batch and less than a microsecond a job."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from models import metrics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.jobs import Ending, Job


def started(queue: str, kind: str, jobs: Sequence[Job]) -> None:
    """Count attempts that begin, and how long those that are first ones have waited since they were due."""
    metrics.JOBS_STARTED.add(len(jobs), queue, kind)
    for job in jobs:
        if job.attempts == 1:
            metrics.JOB_QUEUE_SECONDS.observe(job.waited, queue, kind)


def done(queue: str, jobs: Sequence[Job], seconds: float) -> None:
    """Count jobs of one kind that were done together in ``seconds``; each took as long as all."""
    now, kind = time.time(), jobs[0].kind
    metrics.JOBS_FINISHED.add(len(jobs), queue, kind, "ok")
    for job in jobs:
        metrics.JOB_RUN_SECONDS.observe(seconds, queue, kind)
        _ended(queue, job, now)


def failed(queue: str, job: Job, ending: Ending | None, code: str, seconds: float) -> None:
    """Count an attempt that failed; one whose lease was lost is counted by whoever has it now."""
    if ending is None:
        return
    metrics.JOB_RUN_SECONDS.observe(seconds, queue, job.kind)
    count_ending(queue, ending, code)


def count_ending(queue: str, ending: Ending, code: str) -> None:
    """Count what becomes of a job whose attempt did not end well."""
    job = ending.job
    metrics.JOBS_FINISHED.add(1, queue, job.kind, ending.state)
    if ending.state == "retry":
        metrics.RETRY_ATTEMPTS.add(1, queue, job.kind, metrics.bounded(code))
    else:
        _ended(queue, job, time.time())


def rescued(queue: str, ending: Ending) -> None:
    """Count a job that was taken from a worker which gave no sign of life."""
    metrics.RESCUED_JOBS.add(1, queue, ending.code)
    count_ending(queue, ending, ending.code)


def _ended(queue: str, job: Job, now: float) -> None:
    # The database's clock and this one may differ a little: no time is less than none.
    metrics.JOB_END_TO_END_SECONDS.observe(max(now - job.staged_at.timestamp(), 0.0), queue, job.kind)
