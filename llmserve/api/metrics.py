"""What `GET /metrics` shows, in a registry of its own.

Label values come from closed sets: routes of the application, the usual methods, status classes, names of installed
models. Nothing a client writes can add one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from llmserve.fleet.status import ModelStatus
    from llmserve.fleet.turnover import Turnover
    from llmserve.fleet.worker_counters import WorkerCounters

METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS"})
_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)

# A worker's counter in its `/stats` -> the metric it is added to, and the label that tells it from others there.
_OF_WORKERS: Mapping[str, tuple[str, str | None]] = MappingProxyType(
    {
        "prompt_tokens": ("llmserve_prompt_tokens", "computed"),
        "cached_tokens": ("llmserve_prompt_tokens", "cached"),
        "restored_from_ram": ("llmserve_prefix_restores", "ram"),
        "restored_from_disk": ("llmserve_prefix_restores", "disk"),
        "drafted_tokens": ("llmserve_draft_tokens_proposed", None),
        "accepted_tokens": ("llmserve_draft_tokens_accepted", None),
        "preemptions": ("llmserve_preemptions", None),
        "generated_tokens": ("llmserve_generated_tokens", None),
    }
)


@dataclass(frozen=True, slots=True)
class Totals:
    """`in_flight` are waiting or running now; `requests` got a place on a model. `tokens` are those written."""

    in_flight: int
    requests: int
    tokens: int
    first_contents: int
    first_content_seconds: float


class Metrics:
    """The counters of one gateway. `statuses` is asked, and `turnover` read, at each scrape."""

    def __init__(self, statuses: Callable[[], Sequence[ModelStatus]], turnover: Turnover) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_FleetCollector(statuses, turnover))
        self._requests = Counter(
            "llmserve_requests",
            "Requests answered; status none: the client left first",
            ("route", "method", "status"),
            registry=self._registry,
        )
        self._duration = Histogram(
            "llmserve_request_duration_seconds",
            "From the request's head to the end of its answer",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.in_flight = Gauge(
            "llmserve_generations_in_flight",
            "Generations, embeddings and the like, waiting or running",
            registry=self._registry,
        )
        self._first_content = Histogram(
            "llmserve_time_to_first_content_seconds",
            "From the request to the first text of a streamed answer, loading included",
            ("model",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._tokens = Counter(
            "llmserve_tokens", "Tokens that workers reported", ("model", "kind"), registry=self._registry
        )

        self._waits = Histogram(
            "llmserve_queue_wait_seconds",
            "From the request for a place on a model to the place, loading included",
            ("model",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._retries = Counter(
            "llmserve_retries",
            "Requests given to another worker, because theirs was lost before it had said anything",
            ("model",),
            registry=self._registry,
        )

        self._of_workers = {
            name: Counter(name, text, ("model", *labels), registry=self._registry)
            for name, text, labels in (
                ("llmserve_prompt_tokens", "Prompt tokens, computed or taken from the cache", ("source",)),
                ("llmserve_prefix_restores", "Prefixes put back into the KV cache, by where they were", ("tier",)),
                ("llmserve_draft_tokens_proposed", "Tokens that were drafted ahead and checked", ()),
                ("llmserve_draft_tokens_accepted", "Drafted tokens that were right", ()),
                ("llmserve_preemptions", "Sequences that left for a while because cells ran out", ()),
                ("llmserve_generated_tokens", "Tokens written, counted as they are, also for who left", ()),
            )
        }
        self._last_seen: dict[str, WorkerCounters] = {}

    def request_done(self, route: str, method: str, status: int | None, seconds: float) -> None:
        """Count one request. `route` is the pattern of a route; `status` None means that nothing was answered."""
        method = method if method in METHODS else "other"
        status_class = "none" if status is None else f"{status // 100}xx"
        self._requests.labels(route, method, status_class).inc()
        self._duration.labels(route).observe(seconds)

    def first_content(self, model: str, seconds: float) -> None:
        """`model` must be an installed model's name, here and below."""
        self._first_content.labels(model).observe(seconds)

    def tokens(self, model: str, prompt: int, completion: int) -> None:
        self._tokens.labels(model, "prompt").inc(prompt)
        self._tokens.labels(model, "completion").inc(completion)

    def waited(self, model: str, seconds: float) -> None:
        """A request has got its place, `seconds` after it had asked for one."""
        self._waits.labels(model).observe(seconds)

    def retried(self, model: str) -> None:
        self._retries.labels(model).inc()

    def workers_counted(self, workers: Iterable[WorkerCounters]) -> None:
        """Add what the workers have counted since the last time; a new worker of a model starts from nothing."""
        for worker in workers:
            before = self._last_seen.get(worker.model)
            seen = before.counts if before is not None and before.pid == worker.pid else {}
            self._last_seen[worker.model] = worker
            for counter, (metric, label) in _OF_WORKERS.items():
                labels = (worker.model,) if label is None else (worker.model, label)
                count = worker.counts.get(counter, 0)
                # A worker that lost its cache counts some of them anew.
                added = count - seen.get(counter, 0) if count >= seen.get(counter, 0) else count
                self._of_workers[metric].labels(*labels).inc(added)

    def totals(self) -> Totals:
        """What was counted since the start, of all models together."""
        written = _by_model(self._of_workers["llmserve_generated_tokens"])
        # A worker that tells no such counter is known by what its answers reported at their ends.
        reported = _by_model(self._tokens, kind="completion")
        return Totals(
            in_flight=int(_sum(self.in_flight)),
            requests=int(_sum(self._waits, "_count")),
            tokens=int(sum(max(written.get(model, 0), count) for model, count in {**written, **reported}.items())),
            first_contents=int(_sum(self._first_content, "_count")),
            first_content_seconds=_sum(self._first_content, "_sum"),
        )

    def exposition(self) -> tuple[str, bytes]:
        """Content type and body for a scrape."""
        return CONTENT_TYPE_PLAIN_1_0_0, generate_latest(self._registry)


def _sum(metric: MetricWrapperBase, suffix: str = "") -> float:
    """The sum of the samples whose names end like this, over all labels."""
    samples = (sample for family in metric.collect() for sample in family.samples)
    return sum(sample.value for sample in samples if sample.name.endswith(suffix))


def _by_model(counter: Counter, **labels: str) -> dict[str, float]:
    """The values of `counter` that have these labels."""
    samples = (sample for family in counter.collect() for sample in family.samples)
    return {
        sample.labels["model"]: sample.value
        for sample in samples
        if sample.name.endswith("_total") and labels.items() <= sample.labels.items()
    }


class _FleetCollector(Collector):
    """What the fleet knows at the moment of the scrape."""

    def __init__(self, statuses: Callable[[], Sequence[ModelStatus]], turnover: Turnover) -> None:
        self._statuses = statuses
        self._turnover = turnover

    def collect(self) -> Iterable[Metric]:
        statuses = self._statuses()
        yield from self._family("llmserve_queue_depth", "Requests waiting for a model", statuses, "waiting")
        yield from self._family("llmserve_leases", "Requests on a model's worker", statuses, "leases")
        yield from self._family("llmserve_worker_restarts", "Workers replaced after a crash", statuses, "restarts")
        loads = CounterMetricFamily("llmserve_model_loads", "Times a model became ready", labels=("model",))
        for model, count in self._turnover.loads.items():
            loads.add_metric((model,), count)
        yield loads
        unloads = CounterMetricFamily(
            "llmserve_model_unloads",
            "Models unloaded; cause room: a swap for another one",
            labels=("model", "cause"),
        )
        for labels, count in self._turnover.unloads.items():
            unloads.add_metric(labels, count)
        yield unloads

    @staticmethod
    def _family(name: str, text: str, statuses: Sequence[ModelStatus], field: str) -> Iterator[Metric]:
        family = GaugeMetricFamily(name, text, labels=("model",))
        for status in statuses:
            family.add_metric((status.name,), getattr(status, field))
        yield family
