"""What a worker measures of itself, for Prometheus: each stage of the way of an item, from the queue to the row.

One registry for the process; `workers.endpoint` serves it. Durations are seconds, as Prometheus wants them. Labels:
`kind` is the kind of work ("image", "text"), `lane` who goes first, `engine` the model.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)


def _histogram(name: str, what: str, labels: tuple[str, ...] = (), buckets: tuple[float, ...] = _SECONDS) -> Histogram:
    return Histogram(f"sightline_{name}", what, labels, buckets=buckets, registry=REGISTRY)


def _counter(name: str, what: str, labels: tuple[str, ...] = ()) -> Counter:
    return Counter(f"sightline_{name}", what, labels, registry=REGISTRY)


def _gauge(name: str, what: str, labels: tuple[str, ...] = ()) -> Gauge:
    return Gauge(f"sightline_{name}", what, labels, registry=REGISTRY)


DECODE = _histogram("decode_seconds", "Reading, decoding or tokenising one item, in a thread of the pool.", ("step",))
QUEUE = _histogram(
    "queue_seconds", "From an engine's queue to the begin of the forward, for an item.", ("kind", "lane")
)
COLLATE = _histogram("collate_seconds", "Putting one batch together and on the device.", ("engine", "kind"))
FORWARD = _histogram("forward_seconds", "One forward.", ("engine", "kind"))
BATCH_COST = _histogram("batch_cost_seconds", "What a batch was thought to take when it was cut.", ("engine", "kind"))
BATCH_SIZE = _histogram("batch_size_items", "Items of one batch.", ("engine", "kind"), _ITEMS)
BUDGET = Gauge("sightline_budget_seconds", "What a batch may cost; less after memory ran out.", ("engine", "kind"),
               registry=REGISTRY)  # fmt: skip
PERSIST = _histogram("persist_seconds", "One flush to Postgres, tries and waiting included.")
PERSISTED = _counter("persisted_rows", "Vectors that were written.")
CAPTIONS = _counter("captions", "Captions that recipes wrote.", ("recipe",))

ITEMS = _counter("items", "Items of chunks that were closed, by what became of them.", ("outcome",))
FAILURES = _counter("failures", "Items with an error, given up or to be tried again, by its class.", ("error_class",))
IN_FLIGHT = _gauge("in_flight_chunks", "Chunks in the hands of this worker.")

CACHE_HITS = _counter("cache_hits_items", "Query texts that were answered with a vector that was at hand.")
JOINED = _counter("joined_items", "Items that waited for the encoding of the same content.", ("by",))
EXPIRED = _counter("expired_items", "Items whose deadline passed before the forward.", ("lane",))
OUT_OF_MEMORY = _counter("out_of_memory_batches", "Batches that did not fit into memory.", ("engine",))
DEATHS = _counter("engine_deaths", "Stages of an engine that died and were started again.", ("engine", "stage"))
DRIFT = Gauge("sightline_drift_distance", "L2 distance of the golden vectors from what they were at load, the worst.",
              ("space",), registry=REGISTRY)  # fmt: skip

ENDPOINT_SECONDS = _histogram("endpoint_seconds", "One question to an endpoint, all tries and waits included.",
                              ("recipe", "model", "outcome"),
                              (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0))  # fmt: skip
ENDPOINT_TOKENS = _counter("endpoint_tokens", "Tokens that an endpoint counted.", ("recipe", "model", "kind"))
ENDPOINT_RETRIES = _counter("endpoint_retries", "Requests that were sent again.", ("recipe", "model"))
# Of the whole fleet, by the worker that leads the dispatchers; the others have none of them (workers/load.py).
LEADS = _gauge("dispatcher_leads", "1 for the worker that dispatches, else 0.")
QUEUE_AGE = _gauge("queue_age_seconds", "How long the oldest due work of a queue has waited.", ("queue",))
QUEUE_COST = _gauge("queue_cost_seconds", "What waits and runs in a queue, in seconds of one worker.", ("queue",))
QUEUE_ITEMS = _gauge("queue_items", "Items that wait and are due, and that run.", ("queue", "state"))
QUEUE_WORKERS = _gauge("queue_workers", "Workers that were seen in the last 30 s.", ("queue",))
OF_QUEUES = (QUEUE_AGE, QUEUE_COST, QUEUE_ITEMS, QUEUE_WORKERS)
RECALL = _gauge("index_recall_ratio", "Of the nearest ten of a few stored vectors, the share that the index finds.",
                ("space", "modality"))  # fmt: skip


class _Gpus(Collector):
    """Memory and utilisation of the GPUs that this process computes on, asked when Prometheus asks."""

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return self._families()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        from models.gpu import gpus_in_use

        memory, busy = families = self._families()
        for gpu in gpus_in_use():
            for state, value in (("allocated", gpu.allocated), ("reserved", gpu.reserved), ("free", gpu.free),
                                 ("total", gpu.total)):  # fmt: skip
                memory.add_metric([gpu.device, state], value)
            if gpu.utilisation is not None:
                busy.add_metric([gpu.device], gpu.utilisation)
        return families

    @staticmethod
    def _families() -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
        return (
            GaugeMetricFamily("sightline_gpu_memory_bytes", "Memory: this process allocated and reserved; the card has "
                              "free and total.", labels=["device", "state"]),
            GaugeMetricFamily("sightline_gpu_utilisation_ratio", "Part of the last moment in which the card computed.",
                              labels=["device"]),
        )  # fmt: skip


REGISTRY.register(_Gpus())
