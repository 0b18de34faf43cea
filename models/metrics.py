"""Every metric of Usher (reference/ops-dashboards.md §5): a new one is a definition here and the call that counts it.

Labels are bounded: names of routes, queues, kinds, codes and outcomes, never a tenant, a person or an address, but for
`usher_tenant_queue_oldest_age_seconds`, which is off unless asked for.
"""

from __future__ import annotations

from models.counts import Counter, Counts, Gauge, Histogram

_REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_JOB_SECONDS = (
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
    *(300.0, 900.0, 3600.0, 14400.0, 86400.0),
)
_PAUSE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

_JOB = ("queue", "kind")

# What processes count.
HTTP_REQUESTS = Counter(
    "usher_http_requests_total",
    "Requests answered; the parts of a bulk request count as one.",
    ("route", "method", "status_class", "scim_type"),
)
HTTP_SECONDS = Histogram(
    "usher_http_request_duration_seconds",
    "Time from a request's head to its answer.",
    ("route", "method"),
    _REQUEST_SECONDS,
)
AUTH_FAILURES = Counter("usher_auth_failures_total", "Requests refused for their token.", ("reason",))
REQUESTS_LIMITED = Counter(
    "usher_requests_limited_total", "Requests answered 429, by the limit that their token was over.", ("limit",)
)
CONNECTIONS = Gauge("usher_connections", "Connections of clients that are open.", ("listener",))
CONNECTIONS_ENDED = Counter(
    "usher_connections_ended_total", "Connections that were ended or turned away, by reason.", ("listener", "reason")
)
JOBS_STAGED = Counter("usher_jobs_staged_total", "Jobs staged.", _JOB)
JOBS_STARTED = Counter("usher_jobs_started_total", "Attempts begun.", _JOB)
JOBS_FINISHED = Counter("usher_jobs_finished_total", "Attempts ended, by outcome.", (*_JOB, "outcome"))
JOB_QUEUE_SECONDS = Histogram(
    "usher_job_queue_seconds", "From staged to the first attempt's start.", _JOB, _JOB_SECONDS
)
JOB_RUN_SECONDS = Histogram("usher_job_run_seconds", "Duration of one attempt.", _JOB, _JOB_SECONDS)
JOB_END_TO_END_SECONDS = Histogram(
    "usher_job_end_to_end_seconds", "From staged to done or dead, retries included.", _JOB, _JOB_SECONDS
)
RELAY_LAG = Gauge("usher_relay_lag_seconds", "How long Redis has refused to be rung; 0 while it answers.", merge="max")
RELAY_ROWS = Counter("usher_relay_rows_total", "Jobs that Redis was rung for.")
RESCUED_JOBS = Counter(
    "usher_rescued_jobs_total", "Jobs taken from a worker that gave no sign of life.", ("queue", "reason")
)
RETRY_ATTEMPTS = Counter(
    "usher_retry_attempts_total", "Attempts that failed and will be repeated, by error.", (*_JOB, "error")
)
WORKER_SLOTS = Gauge("usher_worker_slots", "Batches or single jobs that workers can do at once.", ("queue",))
WORKER_SLOTS_BUSY = Gauge("usher_worker_slots_busy", "Of these, those at work.", ("queue",))
EMAILS = Counter(
    "usher_emails_total",
    "Messages handed to the SMTP server, by its answer.",
    ("template", "outcome"),
)
AUDIT_EVENTS = Counter("usher_audit_events_total", "Audit events written.", ("action", "outcome"))
DB_POOL_SIZE = Gauge("usher_db_pool_size", "Connections that the pools may have.", ("pool",))
DB_POOL_IN_USE = Gauge("usher_db_pool_in_use", "Connections lent out.", ("pool",))
DB_POOL_WAIT = Histogram("usher_db_pool_wait_seconds", "Wait for a connection.", ("pool",), _PAUSE_SECONDS)
LOOP_LAG = Histogram(
    "usher_event_loop_lag_seconds", "How much later than asked the event loop came back.", ("process",), _PAUSE_SECONDS
)
RSS = Gauge("usher_process_resident_memory_bytes", "Memory that a process occupies.", ("process", "number"))
CPU = Gauge("usher_process_cpu_seconds_total", "Processor time that a process has used.", ("process", "number"))
OPEN_FILES = Gauge("usher_process_open_fds", "Files and sockets that a process has open.", ("process", "number"))
STARTED_AT = Gauge(
    "usher_process_start_time_seconds", "When a process began, in seconds since 1970.", ("process", "number")
)
BUILD = Gauge("usher_build_info", "1, with what is running as labels.", ("version", "revision"), merge="max")

# What the database and Redis know; read when the api is scraped, by models.gauges.
QUEUE_JOBS = Gauge(
    "usher_queue_jobs", "Jobs now: staged (due), scheduled (due later), retry, running.", ("queue", "state")
)
QUEUE_OLDEST = Gauge(
    "usher_queue_oldest_age_seconds",
    "Age of the oldest: staged since it was due, retry since it was staged, running since it was started.",
    ("queue", "state"),
)
QUEUE_PAUSED = Gauge("usher_queue_paused", "1 while an operator has the queue or a kind of it paused.", ("queue",))
DEAD_JOBS = Gauge("usher_dead_jobs", "Jobs that wait for an operator.", _JOB)
WORKERS = Gauge("usher_workers", "Worker processes that live.", ("queue",))
WORKER_LAST_BEAT = Gauge(
    "usher_worker_last_beat_seconds", "Time since any worker of the queue gave a sign of life.", ("queue",)
)
TENANT_OLDEST = Gauge(
    "usher_tenant_queue_oldest_age_seconds",
    "Age of the tenant's oldest due job; the first USHER_METRICS_TENANTS tenants only.",
    ("queue", "tenant"),
)
TOKENS_EXPIRING = Gauge(
    "usher_tokens_expiring", "Tenants whose last SCIM token ends within so many days.", ("within_days",)
)
AUDIT_UNSEALED = Gauge("usher_audit_unsealed_age_seconds", "Age of the oldest audit event without a seal.", ("stream",))
AUDIT_STREAM_LAG = Gauge(
    "usher_audit_stream_lag_seconds", "Age of the oldest audit event that a destination still lacks.", ("stream",)
)
DATABASE_UP = Gauge("usher_database_up", "1 if PostgreSQL answered this scrape.")
REDIS_UP = Gauge("usher_redis_up", "1 if Redis answered this scrape.")
REDIS_EVICTED = Gauge("usher_redis_evicted_keys_total", "Keys that Redis threw away for want of memory.")
REDIS_NOEVICTION = Gauge("usher_redis_noeviction", "1 if Redis is told never to throw keys away.")
REDIS_COMMANDS = Gauge("usher_redis_commands_total", "Commands that Redis has carried out.")
REDIS_MEMORY = Gauge("usher_redis_memory_bytes", "Memory that Redis uses.")

METRICS = {
    metric.name: metric
    for metric in (
        *(HTTP_REQUESTS, HTTP_SECONDS, AUTH_FAILURES, REQUESTS_LIMITED, CONNECTIONS, CONNECTIONS_ENDED),
        *(JOBS_STAGED, JOBS_STARTED, JOBS_FINISHED, JOB_QUEUE_SECONDS, JOB_RUN_SECONDS, JOB_END_TO_END_SECONDS),
        *(RELAY_LAG, RELAY_ROWS, RESCUED_JOBS, RETRY_ATTEMPTS, WORKER_SLOTS, WORKER_SLOTS_BUSY, EMAILS, AUDIT_EVENTS),
        *(DB_POOL_SIZE, DB_POOL_IN_USE, DB_POOL_WAIT, LOOP_LAG, RSS, CPU, OPEN_FILES, STARTED_AT, BUILD),
        *(QUEUE_JOBS, QUEUE_OLDEST, QUEUE_PAUSED, DEAD_JOBS, WORKERS, WORKER_LAST_BEAT, TENANT_OLDEST),
        *(TOKENS_EXPIRING, AUDIT_UNSEALED, AUDIT_STREAM_LAG),
        *(DATABASE_UP, REDIS_UP, REDIS_EVICTED, REDIS_NOEVICTION, REDIS_COMMANDS, REDIS_MEMORY),
    )
}
"""Every metric by its name, in the order in which `/metrics` has them."""

COUNTS = Counts(METRICS.values())
"""Where this process counts."""

_MOST_CODES = 60
_codes: set[str] = set()


def bounded(code: str) -> str:
    """Return an error code as a label: after the first 60 different ones of a process any other is `other`."""
    if code not in _codes:
        if len(_codes) >= _MOST_CODES:
            return "other"
        _codes.add(code)
    return code
