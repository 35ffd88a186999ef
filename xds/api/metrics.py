"""The server's metrics in Prometheus' text format.

The hub and the catalog are read at each scrape: no metric has a second counter of its own.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from xds.model.catalog import Catalog
from xds.model.types import short_name
from xds.process.background import Background
from xds.protocol.status import Counters
from xds.reporting.directory_status import DirectoryStatus
from xds.reporting.escaping import visible

if TYPE_CHECKING:
    from xds.transport.certificate_expiry import Expiry

_COUNTERS = (
    ("streams_opened", "xds_streams_opened", "Streams opened since the start."),
    ("streams_closed", "xds_streams_closed", "Streams that ended since the start."),
    ("streams_refused", "xds_streams_refused", "Streams that were ended with an error of the client's."),
    ("requests", "xds_requests", "Discovery requests received, ACKs and NACKs included."),
    ("responses", "xds_responses", "Discovery responses sent."),
    ("response_bytes", "xds_response_bytes", "Bytes of discovery responses sent, without framing."),
    ("resources_sent", "xds_resources_sent", "Resources sent."),
    ("removals_sent", "xds_removals_sent", "Names sent as removed."),
    ("heartbeats", "xds_heartbeats", "Responses sent to renew TTLs."),
    ("acks", "xds_acks", "Responses that clients accepted."),
    ("nacks", "xds_nacks", "Responses that clients rejected."),
    ("overdue", "xds_overdue", "Responses that were not answered within the hold timeout."),
    ("nodes_denied", "xds_nodes_denied", "Streams refused because no group takes their node, or another identity."),
    ("secrets_withheld", "xds_secrets_withheld", "Subscriptions to secrets by clients that may not get them."),
)


class WorkerStates(Protocol):
    """The states of the worker processes."""

    @property
    def serving(self) -> int:
        """The number of workers that serve and answer."""
        ...

    @property
    def silent(self) -> Sequence[str]:
        """The names of workers that do not answer."""
        ...

    @property
    def missing(self) -> int:
        """The number of workers that are being replaced."""
        ...


class MemoryReading(Protocol):
    """A reading of the memory."""

    @property
    def used_bytes(self) -> int:
        """The memory that is used."""
        ...

    @property
    def limit_bytes(self) -> int:
        """The memory that there may be."""
        ...


class Memory(Protocol):
    """How short the memory is."""

    @property
    def pressure(self) -> int:
        """0 if it is not, to 3."""
        ...

    @property
    def reading(self) -> MemoryReading | None:
        """The last reading, None if there is no limit."""
        ...


class Serving(Protocol):
    """The server of the streams, in this process or in worker processes."""

    @property
    def counters(self) -> Counters:
        """Totals since the start."""
        ...

    @property
    def count(self) -> int:
        """The number of open streams."""
        ...

    @property
    def tls_failures(self) -> Mapping[str, int]:
        """Refused handshakes and client certificates since the start, by reason."""
        ...

    @property
    def memory(self) -> Memory:
        """How short the memory is."""
        ...

    @property
    def workers(self) -> WorkerStates:
        """The states of the worker processes, if there are any."""
        ...

    async def refresh(self) -> None:
        """Bring the counters and the count up to date."""
        ...


class _ServerCollector(Collector):
    def __init__(
        self,
        streams: Serving,
        catalog: Catalog,
        rejected: Callable[[], int],
        limit_hits: Callable[[], Mapping[str, int]],
        stale: Callable[[], bool],
        refusing: Callable[[], bool],
        background: Background,
        directory: DirectoryStatus | None,
        admin_failures: Callable[[], Mapping[str, int]],
        expiries: "Callable[[], Iterable[Expiry]]",
    ) -> None:
        self._admin_failures = admin_failures
        self._expiries = expiries
        self._directory = directory
        self._background = background
        self._streams = streams
        self._catalog = catalog
        self._rejected = rejected
        self._limit_hits = limit_hits
        self._stale = stale
        self._refusing = refusing

    def collect(self) -> Iterator[Metric]:
        counters = self._streams.counters
        for attribute, name, text in _COUNTERS:
            yield CounterMetricFamily(name, text, value=getattr(counters, attribute))
        yield GaugeMetricFamily("xds_streams", "Streams open now.", value=self._streams.count)
        workers = self._streams.workers
        yield GaugeMetricFamily("xds_workers", "Worker processes that serve and answer.", value=workers.serving)
        yield GaugeMetricFamily(
            "xds_workers_silent", "Worker processes that do not answer: stopped, or stuck.", value=len(workers.silent)
        )
        yield GaugeMetricFamily("xds_workers_missing", "Worker processes being replaced.", value=workers.missing)
        yield GaugeMetricFamily("xds_revision", "The revision that is served.", value=self._catalog.revision)
        yield GaugeMetricFamily("xds_groups", "Groups that are served.", value=len(self._catalog.snapshots))
        yield CounterMetricFamily("xds_changesets_rejected", "Changesets refused whole.", value=self._rejected())
        yield GaugeMetricFamily("xds_stale", "1 while newer changes may be missing.", value=int(self._stale()))
        yield GaugeMetricFamily(
            "xds_refusing", "1 while changes are refused: the store is not in its place.", value=int(self._refusing())
        )
        yield from _tls_metrics({"xds": self._streams.tls_failures, "admin": self._admin_failures()}, self._expiries())
        yield from _token_metrics(counters)
        if self._directory is not None:
            yield from _directory_metrics(self._directory)
        yield from _overload_metrics(self._limit_hits(), self._streams.memory)
        deaths = CounterMetricFamily(
            "xds_background_deaths",
            "Background tasks that ended though they were to go on, and were started again.",
            labels=["task"],
        )
        for task, count in sorted(self._background.deaths.items()):
            deaths.add_metric([task], count)
        yield deaths
        yield GaugeMetricFamily(
            "xds_ailing", "1 while a background task has died lately.", value=int(bool(self._background.ailing))
        )
        resources = GaugeMetricFamily(
            "xds_resources", "Resources that a group's nodes see, summed over groups.", labels=["type"]
        )
        totals: dict[str, int] = {}
        for snapshot in self._catalog.snapshots.values():
            for type_url, view in snapshot.views.items():
                totals[type_url] = totals.get(type_url, 0) + len(view)
        for type_url, total in sorted(totals.items()):
            resources.add_metric([visible(short_name(type_url))], total)
        yield resources


def _overload_metrics(limit_hits: Mapping[str, int], memory: Memory) -> Iterator[Metric]:
    hits = CounterMetricFamily(
        "xds_limit_hits", "How often a limit was reached; docs/limits.md has all.", labels=["limit"]
    )
    for limit, count in limit_hits.items():
        hits.add_metric([limit], count)
    yield hits
    yield GaugeMetricFamily(
        "xds_memory_pressure",
        "0: none; 1: new clients are admitted slowly; 2: new streams are shed; 3: changes are refused too.",
        value=int(memory.pressure),
    )
    used, most = (0, 0) if memory.reading is None else (memory.reading.used_bytes, memory.reading.limit_bytes)
    yield GaugeMetricFamily("xds_memory_used_bytes", "Memory that counts for xds_memory_pressure.", value=used)
    yield GaugeMetricFamily("xds_memory_limit_bytes", "The limit of that memory; 0 if there is none.", value=most)


def _directory_metrics(directory: DirectoryStatus) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "xds_directory_rejected",
        "1 while the followed directory's content is rejected, so that what it had before is served.",
        value=int(directory.is_rejected),
    )
    yield GaugeMetricFamily(
        "xds_directory_applied_timestamp_seconds",
        "When the followed directory's content was last applied; 0 if not since the start.",
        value=directory.applied_at_s,
    )


def _token_metrics(counters: Counters) -> Iterator[Metric]:
    refused = CounterMetricFamily(
        "xds_tokens_refused", "Streams refused because of the token of their client, or without one.", labels=["reason"]
    )
    for reason, count in sorted(counters.tokens_refused.items()):
        refused.add_metric([reason], count)
    yield refused
    yield CounterMetricFamily(
        "xds_tokens_expired", "Streams ended because their token had expired.", value=counters.tokens_expired
    )
    failed = CounterMetricFamily(
        "xds_keys_failed", "Attempts to read the keys of an issuer of tokens that failed.", labels=["issuer"]
    )
    for issuer, count in sorted(counters.keys_failed.items()):
        failed.add_metric([visible(issuer)], count)
    yield failed


def _tls_metrics(failures: Mapping[str, Mapping[str, int]], expiries: "Iterable[Expiry]") -> Iterator[Metric]:
    refused = CounterMetricFamily(
        "xds_tls_failures", "TLS handshakes that failed, and client certificates refused.", labels=["port", "reason"]
    )
    for port, reasons in failures.items():
        for reason, count in sorted(reasons.items()):
            refused.add_metric([port, reason], count)
    yield refused
    expiry_times = GaugeMetricFamily(
        "xds_certificate_expiry_timestamp_seconds",
        "When a certificate, a CA or a revocation list of this server's files expires.",
        labels=["file", "subject", "kind"],
    )
    for expiry in expiries:
        kind = "crl" if expiry.is_crl else "certificate"
        expiry_times.add_metric([visible(expiry.file), visible(expiry.subject), kind], expiry.at_s)
    yield expiry_times


def metrics_renderer(
    streams: Serving,
    catalog: Catalog,
    *,
    rejected: Callable[[], int],
    limit_hits: Callable[[], Mapping[str, int]] = dict,
    stale: Callable[[], bool] = lambda: False,
    refusing: Callable[[], bool] = lambda: False,
    background: Background | None = None,
    directory: DirectoryStatus | None = None,
    admin_failures: Callable[[], Mapping[str, int]] = dict,
    expiries: "Callable[[], Iterable[Expiry]]" = tuple,
) -> Callable[[], Awaitable[bytes]]:
    """Return a function that renders all metrics as Prometheus text.

    ``rejected`` returns the number of changesets rejected so far, ``limit_hits`` how
    often each limit was reached, ``stale`` whether newer changes may be missing,
    ``refusing`` whether no change can be stored; ``directory`` is the one that is followed, if one is;
    ``admin_failures`` returns the admin port's TLS failures by reason, ``expiries`` when certificates expire.
    """
    registry = CollectorRegistry()
    for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
        registry.register(collector)
    registry.register(
        _ServerCollector(
            streams,
            catalog,
            rejected,
            limit_hits,
            stale,
            refusing,
            background or Background(),
            directory,
            admin_failures,
            expiries,
        )
    )

    async def render() -> bytes:
        await streams.refresh()
        return generate_latest(registry)

    return render
