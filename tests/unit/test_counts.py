"""Counts of several processes: one file each, taken over by the next, summed by whoever is asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from models import exposition, metrics
from models.counts import Counter, Counts, Gauge, Histogram

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


class Set:
    """Metrics of one imagined process."""

    def __init__(self) -> None:
        self.jobs = Counter("jobs_total", "", ("queue",))
        self.slots = Gauge("slots", "", ("queue",))
        self.lag = Gauge("lag", "", merge="max")
        self.seconds = Histogram("seconds", "", ("queue",), (0.1, 1.0, 10.0))
        self.counts = Counts([self.jobs, self.slots, self.lag, self.seconds])


@pytest.fixture
def sets(tmp_path: Path) -> Iterator[list[Set]]:
    made = [Set() for _ in range(3)]
    for one in made:
        one.counts.share(tmp_path)
    yield made
    for one in made:
        one.counts.close()


def test_processes_count_apart_and_any_tells_the_sum(sets: list[Set]) -> None:
    for by, one in enumerate(sets, 1):
        one.jobs.add(by, "email")
        one.slots.set(by, "email")
        one.lag.set(by)
    assert [one.counts.number for one in sets] == [0, 1, 2]
    for one in sets:
        read = one.counts.read()
        assert read["jobs_total", ("email",)] == [6.0]
        assert read["slots", ("email",)] == [6.0]
        assert read["lag", ()] == [3.0]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Python 3.12 minds the threads of the test runner
def test_a_forked_process_that_shares_with_nobody_counts_for_itself() -> None:
    one = Set()
    child = os.fork()
    if child == 0:
        one.jobs.add(1.0, "email")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    one.jobs.add(2.0, "email")
    assert one.counts.read() == {("jobs_total", ("email",)): [2.0]}


def test_a_successor_counts_on_and_the_gauges_of_the_dead_are_forgotten(sets: list[Set], tmp_path: Path) -> None:
    gone, other, _ = sets
    gone.jobs.add(5, "email")
    gone.slots.set(7, "email")
    gone.seconds.observe(0.5, "email")
    gone.counts.close()
    assert other.counts.read()["jobs_total", ("email",)] == [5.0]
    assert ("slots", ("email",)) not in other.counts.read()
    successor = Set()
    successor.counts.share(tmp_path)
    assert successor.counts.number == 0
    successor.jobs.add(1, "email")
    read = other.counts.read()
    assert read["jobs_total", ("email",)] == [6.0]
    assert read["seconds", ("email",)] == [0.0, 1.0, 0.0, 0.0, 0.5]
    assert ("slots", ("email",)) not in read
    keys = [key for key, _, _ in successor.counts._memory.entries()]
    assert len(keys) == len(set(keys)), "a successor finds its series, and does not make them anew each time"
    successor.counts.close()


def test_gauges_of_a_process_that_is_silent_are_left_out(sets: list[Set], monkeypatch: pytest.MonkeyPatch) -> None:
    sets[0].slots.set(7, "email")
    sets[1].slots.set(2, "email")
    now = time.time()
    monkeypatch.setattr("models.counts.time.time", lambda: now + 60)
    sets[1].counts.beat()
    assert sets[2].counts.read()["slots", ("email",)] == [2.0]


def test_what_a_killed_process_counted_is_kept(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, os, signal; from models import metrics; "
        "metrics.COUNTS.share(pathlib.Path(sys.argv[1]));"
        "[metrics.JOBS_STARTED.add(1, 'email', 'invitation.send') for _ in range(1000)];"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    for _ in range(2):
        ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False)
        assert ended.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["0.counts"]
    metrics.COUNTS.share(tmp_path)
    try:
        assert metrics.COUNTS.read()["usher_jobs_started_total", ("email", "invitation.send")] == [2000.0]
    finally:
        metrics.COUNTS.close()


def test_a_file_of_another_version_is_begun_anew(tmp_path: Path) -> None:
    first = Set()
    first.counts.share(tmp_path)
    first.jobs.add(1, "email")
    jobs = Counter("jobs_total", "", ("queue", "kind"))
    second = Counts([jobs])
    second.share(tmp_path)
    jobs.add(1, "email", "x")
    assert second.read() == {("jobs_total", ("email", "x")): [1.0]}
    assert first.counts.read()["jobs_total", ("email",)] == [1.0]
    first.counts.close()
    third = Counts([Counter("jobs_total", "", ("queue", "kind"))])
    third.share(tmp_path)
    assert third.number == 0
    assert third.read() == {("jobs_total", ("email", "x")): [1.0]}
    second.close()
    third.close()


def test_a_memory_that_is_full_loses_only_what_is_new() -> None:
    one = Set()
    one.jobs.add(1, "email")
    for number in range(40_000):
        one.jobs.add(1, f"a queue with the number {number}")
        one.seconds.observe(0.5, f"a queue with the number {number}")
    one.jobs.add(1, "email")
    read = one.counts.read()
    assert read["jobs_total", ("email",)] == [2.0]
    assert 1000 < len(read) < 40_000
    assert all(
        values == [1.0] for (name, labels), values in read.items() if name == "jobs_total" and labels != ("email",)
    )


def test_labels_must_be_those_of_the_metric() -> None:
    with pytest.raises(TypeError, match="jobs_total"):
        Set().jobs.add(1, "email", "more")


@given(st.lists(st.floats(0, 100), max_size=50))
def test_a_histogram_has_each_value_in_its_bucket(values: list[float]) -> None:
    one = Set()
    for value in values:
        one.seconds.observe(value, "email")
    read = one.counts.read().get(("seconds", ("email",)), [0.0] * 5)
    bounds = [0.1, 1.0, 10.0, float("inf")]
    for place, bound in enumerate(bounds):
        assert sum(read[: place + 1]) == sum(value <= bound for value in values)
    assert read[-1] == pytest.approx(sum(values))


def test_what_is_written_is_what_a_scraper_reads() -> None:
    before = _samples()
    metrics.JOB_RUN_SECONDS.observe(0.3, "email", "invitation.send")
    metrics.JOB_RUN_SECONDS.observe(7, "email", "invitation.send")
    after = _samples()
    job = {"queue": "email", "kind": "invitation.send"}

    def grown(name: str, **labels: str) -> float:
        key = (name, frozenset({**job, **labels}.items()))
        return after[key] - before.get(key, 0.0)

    assert grown("usher_job_run_seconds_count") == 2
    assert grown("usher_job_run_seconds_sum") == pytest.approx(7.3)
    assert [grown("usher_job_run_seconds_bucket", le=le) for le in ("0.25", "0.5", "5.0", "10.0", "+Inf")] == [
        0,
        1,
        1,
        2,
        2,
    ]


def test_openmetrics_is_written_for_those_who_ask_for_it() -> None:
    text, media_type = exposition.write("application/openmetrics-text; version=1.0.0", {})
    assert media_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")


def test_error_codes_stay_few() -> None:
    assert metrics.bounded("smtp_4xx") == "smtp_4xx"
    labels = {metrics.bounded(f"made_up_{number}") for number in range(1000)}
    assert len(labels) < 100
    assert "other" in labels


def _samples() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text, media_type = exposition.write("text/plain", {})
    assert media_type.startswith("text/plain")
    families = text_string_to_metric_families(text.decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }
