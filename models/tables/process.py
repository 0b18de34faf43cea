"""Processes that live, what each did in every minute, and what runs on a schedule."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, CheckConstraint, Column, DateTime, Float, Index, Integer, Text, text
from sqlmodel import Field, SQLModel

from models.tables.columns import moment, texts


def _count(kind: type[Integer] = Integer) -> Column[int]:
    return Column(kind, nullable=False, server_default=text("0"))


class Process(SQLModel, table=True):
    """One api or worker process, with its last sign of life."""

    __tablename__ = "process"
    __table_args__ = (
        CheckConstraint("role = ANY (ARRAY['api'::text, 'worker'::text])", name="process_role"),
        Index("process_living", "beat_at", postgresql_where=text("stopped_at IS NULL")),
    )

    id: UUID = Field(primary_key=True)
    role: str = Field(sa_column=Column(Text, nullable=False))
    host: str = Field(sa_column=Column(Text, nullable=False))
    pid: int
    version: str = Field(sa_column=Column(Text, nullable=False))
    queues: list[str] = Field(sa_column=texts())
    slots: int
    busy: int = Field(default=0, sa_column=_count())
    jobs_done: int = Field(default=0, sa_column=_count(BigInteger))
    jobs_failed: int = Field(default=0, sa_column=_count(BigInteger))
    rss_bytes: int = Field(default=0, sa_column=_count(BigInteger))
    loop_lag_seconds: float = Field(default=0, sa_column=Column(Float, nullable=False, server_default=text("0")))
    quiet: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})
    """Whether it was told to take no more jobs."""
    started_at: datetime = Field(sa_column=moment(now=True))
    beat_at: datetime = Field(sa_column=moment(now=True))
    stopped_at: datetime | None = Field(default=None, sa_column=moment(nullable=True))


class JobMinute(SQLModel, table=True):
    """What one process did with one kind of job in one minute; whoever reads sums over the processes."""

    __tablename__ = "job_minute"

    minute: datetime = Field(sa_column=Column(DateTime(timezone=True), primary_key=True))
    kind: str = Field(sa_column=Column(Text, primary_key=True))
    process_id: UUID = Field(primary_key=True)
    started: int = Field(default=0, sa_column=_count())
    done: int = Field(default=0, sa_column=_count())
    failed: int = Field(default=0, sa_column=_count())
    dead: int = Field(default=0, sa_column=_count())
    queueing: list[int] = Field(sa_column=Column(ARRAY(Integer), nullable=False))
    """Jobs by the time from staged to first start, in the buckets of `models.statistics`."""
    running: list[int] = Field(sa_column=Column(ARRAY(Integer), nullable=False))
    """Attempts by the time that they took, in the same buckets."""


class Schedule(SQLModel, table=True):
    """What became of the last run of something that runs again and again."""

    __tablename__ = "schedule"

    name: str = Field(sa_column=Column(Text, primary_key=True))
    started_at: datetime | None = Field(default=None, sa_column=moment(nullable=True))
    finished_at: datetime | None = Field(default=None, sa_column=moment(nullable=True))
    outcome: str | None = Field(default=None, sa_column=Column(Text))
    detail: str | None = Field(default=None, sa_column=Column(Text))
    next_at: datetime | None = Field(default=None, sa_column=moment(nullable=True))
    run_now: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})
