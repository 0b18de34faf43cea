"""Writing numbers in Prometheus's format, or OpenMetrics' where the scraper asks for it."""

from __future__ import annotations

from itertools import accumulate, product
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import CollectorRegistry

from models import metrics
from models.jobs import KINDS, QUEUES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.metrics_core import Metric as Family

    from models.counts import Key, Metric

_JOBS = [(kind.queue, kind.name) for kind in KINDS.values()]
_AUTH_REASONS = ("missing", "malformed", "unknown", "expired", "revoked", "scope")
_EMAIL_OUTCOMES = ("sent", "deferred_4xx", "rejected_5xx", "timeout")

# What stands there as zero before anything happened: a counter that begins at 1 shows no increase.
_KNOWN: dict[str, list[tuple[str, ...]]] = {
    metrics.AUTH_FAILURES.name: [(reason,) for reason in _AUTH_REASONS],
    metrics.JOBS_STAGED.name: [*_JOBS],
    metrics.JOBS_STARTED.name: [*_JOBS],
    metrics.JOBS_FINISHED.name: [
        (*job, outcome) for job, outcome in product(_JOBS, ("ok", "retry", "dead", "cancelled"))
    ],
    metrics.RESCUED_JOBS.name: [(queue, "lease_expired") for queue in QUEUES],
    metrics.EMAILS.name: [*product(("invitation", "operator_link"), _EMAIL_OUTCOMES)],
    metrics.RELAY_ROWS.name: [()],
}


class _Numbers:
    """What prometheus-client asks for the families to write."""

    def __init__(self, numbers: Mapping[Key, list[float]]) -> None:
        self._series: dict[str, dict[tuple[str, ...], list[float]]] = {}
        for (name, labels), values in numbers.items():
            self._series.setdefault(name, {})[labels] = values

    def collect(self) -> Iterator[Family]:
        """Give every family that there is, also one without a series yet."""
        for metric in metrics.METRICS.values():
            series = self._series.get(metric.name, {})
            zero = [0.0] * metric.width
            yield _family(metric, {**dict.fromkeys(_KNOWN.get(metric.name, ()), zero), **series})


def _family(metric: Metric, series: Mapping[tuple[str, ...], list[float]]) -> Family:
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, values in series.items():
            bounds = [*(str(bound) for bound in metric.bounds), "+Inf"]
            counts = accumulate(values[:-1])
            histogram.add_metric(labels, list(zip(bounds, counts, strict=True)), values[-1])
        return histogram
    # Also of a process or a server that begins anew at zero, as counters may.
    kind = CounterMetricFamily if metric.name.endswith("_total") else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, values in series.items():
        family.add_metric(labels, values[0])
    return family


def write(accept: str, further: Mapping[Key, list[float]], *, own: bool = False) -> tuple[bytes, str]:
    """Return the text of `/metrics` and its media type.

    Args:
        accept: the scraper's Accept header.
        further: what no process counted: `models.gauges`.
        own: leave out what other processes of the folder count.
    """
    registry = CollectorRegistry()
    registry.register(_Numbers({**metrics.COUNTS.read(own=own), **further}))
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type
