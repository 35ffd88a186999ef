"""The server's metrics in Prometheus' text format.

The hub and the catalog are read at each scrape: no metric has a second counter of its own. Labels are bounded: groups
beyond the first ``GROUPS_MAX`` are ``other``, as are types without a short name.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from platform import python_version
from time import thread_time
from typing import TYPE_CHECKING, Protocol

from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from xds.model.catalog import Catalog
from xds.model.types import SHORT_NAMES, short_name
from xds.process.background import Background
from xds.protocol.convergence import Debts
from xds.protocol.errors import StreamRefusedError
from xds.protocol.measures import OTHER, Measures, Traffic
from xds.protocol.status import Counters
from xds.reporting.directory_status import DirectoryStatus
from xds.reporting.escaping import visible
from xds.schema.origin import built_with
from xds.telemetry.histogram import Histogram
from xds.telemetry.process_figures import ProcessFigures
from xds.telemetry.server_measures import ServerMeasures
from xds.version import __version__

if TYPE_CHECKING:
    from xds.transport.certificate_expiry import Expiry

_COUNTERS = (
    ("streams_opened", "xds_streams_opened", "Streams opened since the start."),
    ("streams_closed", "xds_streams_closed", "Streams that ended since the start."),
    ("streams_refused", "xds_streams_refused", "Streams that were ended with an error of the client's."),
    ("heartbeats", "xds_heartbeats", "Responses sent to renew TTLs."),
    ("overdue", "xds_overdue", "Responses that were not answered within the hold timeout."),
    ("nodes_denied", "xds_nodes_denied", "Streams refused because no group takes their node, or another identity."),
    ("secrets_withheld", "xds_secrets_withheld", "Subscriptions to secrets by clients that may not get them."),
)
_TRAFFIC = (
    ("requests", "xds_requests", "Discovery requests received, ACKs and NACKs included."),
    ("responses", "xds_responses", "Discovery responses sent."),
    ("response_bytes", "xds_response_bytes", "Bytes of discovery responses sent, without framing."),
    ("resources", "xds_resources_sent", "Resources sent."),
    ("removals", "xds_removals_sent", "Names sent as removed."),
    ("acks", "xds_acks", "Responses that clients accepted."),
    ("nacks", "xds_nacks", "Responses that clients rejected."),
)
PAUSE, PAUSE_S_MAX = 4, 0.1
"""How long to pause after a scrape: so many times its work, and at most so many seconds."""
GROUPS_MAX = 100
"""Maximum groups with a label of their own; later ones are ``other`` together."""


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


class KnownNodes(Protocol):
    """The nodes that were seen."""

    @property
    def gone_by_group(self) -> Mapping[str, int]:
        """The numbers of nodes that are connected nowhere, by group."""
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
    def measures(self) -> Measures:
        """What was counted by group and type, and measured, since the start."""
        ...

    @property
    def processes(self) -> tuple[ProcessFigures, ...]:
        """The figures of each process."""
        ...

    @property
    def restarts(self) -> int:
        """How many workers were replaced."""
        ...

    @property
    def client_states(self) -> int:
        """The number of different states that clients share."""
        ...

    @property
    def known(self) -> KnownNodes:
        """The nodes that were seen."""
        ...

    async def debts(self) -> Debts:
        """Return what the clients owe. Raises StreamRefusedError if no process answers."""
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
        measured: ServerMeasures,
    ) -> None:
        self._measured = measured
        self._labels = _GroupLabels()
        self.debts = Debts(revision=0, by_group={})
        """What the clients owe, set before each collection."""
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
        yield from _traffic_metrics(self._streams.measures, self._catalog, self._labels)
        yield from _node_metrics(self.debts, self._streams.known.gone_by_group, self._catalog, self._labels)
        yield from _time_metrics(self._streams.measures, self._labels)
        yield from _cache_metrics(self._streams)
        yield from _process_metrics(self._streams.processes)
        yield from _api_metrics(self._measured)
        yield _build_info()
        yield GaugeMetricFamily("xds_streams", "Streams open now.", value=self._streams.count)
        workers = self._streams.workers
        yield GaugeMetricFamily("xds_workers", "Worker processes that serve and answer.", value=workers.serving)
        yield GaugeMetricFamily(
            "xds_workers_silent", "Worker processes that do not answer: stopped, or stuck.", value=len(workers.silent)
        )
        yield GaugeMetricFamily("xds_workers_missing", "Worker processes being replaced.", value=workers.missing)
        yield CounterMetricFamily(
            "xds_worker_restarts", "Workers that ended by themselves and were replaced.", value=self._streams.restarts
        )
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
                known = _known_type(type_url)
                totals[known] = totals.get(known, 0) + len(view)
        for type_url, total in sorted(totals.items()):
            resources.add_metric([_type_label(type_url)], total)
        yield resources


class _GroupLabels:
    """The groups that have a label of their own: the first that were seen, for good."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, group: str) -> str:
        """Return the label of a group."""
        label = self._known.get(group)
        if label is None:
            if len(self._known) >= GROUPS_MAX:
                return OTHER
            label = self._known[group] = visible(group)
        return label


def _known_type(type_url: str) -> str:
    """Return a type URL, ``OTHER`` for one without a short name."""
    return type_url if type_url in SHORT_NAMES.values() else OTHER


def _type_label(type_url: str) -> str:
    return visible(short_name(type_url))


def _traffic_metrics(measures: Measures, catalog: Catalog, labels: _GroupLabels) -> Iterator[Metric]:
    """Yield the counts by group and type. Types that are served are there from the start, with 0."""
    rows: dict[tuple[str, str], Traffic] = {}
    for group, snapshot in sorted(catalog.snapshots.items()):
        for type_url in sorted(snapshot.views):
            rows.setdefault((labels.of(group), _type_label(_known_type(type_url))), Traffic())
    for (group, type_url), traffic in measures.traffic.items():
        rows.setdefault((labels.of(group), _type_label(type_url)), Traffic()).add(traffic)
    for attribute, name, text in _TRAFFIC:
        family = CounterMetricFamily(name, text, labels=["group", "type"])
        for key, traffic in rows.items():
            family.add_metric(key, getattr(traffic, attribute))
        yield family


def _node_metrics(debts: Debts, gone: Mapping[str, int], catalog: Catalog, labels: _GroupLabels) -> Iterator[Metric]:
    nodes = GaugeMetricFamily(
        "xds_nodes",
        "Nodes of this replica by group, and whether they have accepted what is served. gone: nodes that are known and "
        "connected to no replica; each replica has those of all, so take their max, not their sum.",
        labels=["group", "state"],
    )
    rows: dict[str, list[int]] = {}
    for group in (*sorted(catalog.snapshots), *debts.by_group):
        rows.setdefault(labels.of(group), [0, 0, 0, 0])
    for group, count in gone.items():
        rows.setdefault(labels.of(group), [0, 0, 0, 0])[3] += count
    for group in debts.by_group:
        row = rows[labels.of(group)]
        for index, count in enumerate(debts.at(debts.revision, group)):
            row[index] += count
    for label, row in rows.items():
        for state, count in zip(("accepted", "pending", "rejected", "gone"), row, strict=True):
            nodes.add_metric([label, state], count)
    yield nodes


def _histogram(name: str, text: str, times: Histogram) -> Metric:
    family = HistogramMetricFamily(name, text)
    family.add_metric([], list(times.buckets()), times.sum_s)
    return family


def _time_metrics(measures: Measures, labels: _GroupLabels) -> Iterator[Metric]:
    yield _histogram(
        "xds_commit_to_sent_seconds",
        "From the commit of a change until a response with it is handed to the transport, per response.",
        measures.sent,
    )
    accepted = HistogramMetricFamily(
        "xds_commit_to_accepted_seconds",
        "From the commit of the oldest change that a node had not accepted until it accepted it, per node.",
        labels=["group"],
    )
    rows: dict[str, Histogram] = {}
    for group, times in measures.accepted.items():
        rows.setdefault(labels.of(group), Histogram()).add(times)
    for label, times in rows.items():
        accepted.add_metric([label], list(times.buckets()), times.sum_s)
    yield accepted
    yield _histogram(
        "xds_connect_to_synced_seconds",
        "From the first request of a node until it had accepted everything that it subscribed to.",
        measures.synced,
    )


def _cache_metrics(streams: Serving) -> Iterator[Metric]:
    measures = streams.measures
    totals = measures.totals()
    steps = CounterMetricFamily(
        "xds_steps",
        "Requests taken and responses sent by a step that was cached for the whole cohort, or that was computed.",
        labels=["event", "cached"],
    )
    for event, total, computed in (
        ("request", totals["requests"], measures.computed_requests),
        ("response", totals["responses"], measures.computed_responses),
    ):
        steps.add_metric([event, "true"], max(0, total - computed))
        steps.add_metric([event, "false"], computed)
    yield steps
    cache = CounterMetricFamily(
        "xds_response_cache",
        "Responses of computed steps that were cached (hit), or encoded (miss).",
        labels=["result"],
    )
    cache.add_metric(["hit"], measures.response_hits)
    cache.add_metric(["miss"], measures.response_misses)
    yield cache
    yield GaugeMetricFamily(
        "xds_cohorts", "Different states of clients, each shared by its cohort.", value=streams.client_states
    )


def _process_metrics(processes: Iterable[ProcessFigures]) -> Iterator[Metric]:
    """Yield what each process of the server uses and serves: the parent and the workers by number."""
    cpu = CounterMetricFamily("xds_process_cpu_seconds", "CPU time of each process.", labels=["process"])
    memory = GaugeMetricFamily("xds_process_resident_bytes", "Resident memory of each process.", labels=["process"])
    streams = GaugeMetricFamily("xds_process_streams", "Streams open in each process.", labels=["process"])
    responses = CounterMetricFamily("xds_process_responses", "Responses sent by each process.", labels=["process"])
    nacks = CounterMetricFamily(
        "xds_process_nacks", "Responses of each process that clients rejected.", labels=["process"]
    )
    lag = HistogramMetricFamily(
        "xds_loop_lag_seconds", "By how much the event loop of a process was late.", labels=["process"]
    )
    accepted = HistogramMetricFamily(
        "xds_process_commit_to_accepted_seconds",
        "As xds_commit_to_accepted_seconds, by the process that has the stream.",
        labels=["process"],
    )
    for each in processes:
        label = [each.name]
        cpu.add_metric(label, each.cpu_s)
        memory.add_metric(label, each.resident_bytes)
        streams.add_metric(label, each.streams)
        responses.add_metric(label, each.responses)
        nacks.add_metric(label, each.nacks)
        lag.add_metric(label, list(each.lag.buckets()), each.lag.sum_s)
        accepted.add_metric(label, list(each.accepted.buckets()), each.accepted.sum_s)
    yield from (cpu, memory, streams, responses, nacks, lag, accepted)


def _api_metrics(measured: ServerMeasures) -> Iterator[Metric]:
    calls = CounterMetricFamily(
        "xds_api_requests",
        "Calls of the push API, by call, role of the caller and outcome.",
        labels=["call", "role", "outcome"],
    )
    for key, count in sorted(measured.calls.items()):
        calls.add_metric(key, count)
    yield calls
    refused = CounterMetricFamily(
        "xds_credentials_refused", "Calls of the push API refused for their credentials.", labels=["reason"]
    )
    for reason, count in sorted(measured.credentials_refused.items()):
        refused.add_metric([reason], count)
    yield refused
    yield CounterMetricFamily(
        "xds_rights_refused", "Calls of the push API refused for want of a right.", value=measured.rights_refused
    )
    yield GaugeMetricFamily(
        "xds_access_problem",
        "1 while a file of tokens or identities, or the keys of an issuer, can't be used, or the audit log fails.",
        value=int(bool(measured.access_problem())),
    )
    yield _histogram("xds_push_seconds", "From the arrival of a change until it was answered.", measured.push)
    yield _histogram("xds_store_seconds", "How long the store took to commit a batch of changes.", measured.store)
    yield GaugeMetricFamily("xds_push_queue", "Changes that wait to be committed.", value=measured.queue())


def _build_info() -> Metric:
    info = GaugeMetricFamily(
        "xds_build_info", "1; the labels say which version runs.", labels=["version", "python", "envoy_api"]
    )
    info.add_metric([__version__, python_version(), built_with()], 1)
    return info


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
    measured: ServerMeasures | None = None,
) -> Callable[[], Awaitable[bytes]]:
    """Return a function that renders all metrics as Prometheus text.

    ``rejected`` returns the number of changesets rejected so far, ``limit_hits`` how
    often each limit was reached, ``stale`` whether newer changes may be missing,
    ``refusing`` whether no change can be stored; ``directory`` is the one that is followed, if one is;
    ``admin_failures`` returns the admin port's TLS failures by reason, ``expiries`` when certificates expire;
    ``measured`` is what the push API and the publisher measure.
    """
    registry = CollectorRegistry()
    for shared in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
        registry.register(shared)
    collector = _ServerCollector(
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
        measured or ServerMeasures(),
    )
    registry.register(collector)

    async def render() -> bytes:
        await streams.refresh()
        with suppress(StreamRefusedError):  # no worker answers: xds_workers_silent says so
            collector.debts = await streams.debts()
        return generate_latest(registry)

    return SharedScrapes(render).take


class SharedScrapes:
    """Shares scrapes between those who ask at the same time. Each is of after it was asked for.

    The next one is begun after a pause of ``PAUSE`` times the work of the last, so that many who scrape leave others
    most of the event loop.
    """

    def __init__(self, render: Callable[[], Awaitable[bytes]]) -> None:
        self._render = render
        self._turns = asyncio.Lock()
        self._begun = self._ended = 0
        """The number of scrapes that have begun, and the number of the last one that has ended."""
        self._text = b""
        self._next_at = 0.0

    async def take(self) -> bytes:
        """Return what all metrics are, as of now or a little later."""
        before = self._begun
        async with self._turns:
            if self._ended > before:
                return self._text
            loop = asyncio.get_running_loop()
            if (pause_s := self._next_at - loop.time()) > 0:
                await asyncio.sleep(pause_s)
            self._begun += 1
            began = thread_time()
            text = await self._render()
            self._next_at = loop.time() + min(PAUSE * (thread_time() - began), PAUSE_S_MAX)
            self._ended, self._text = self._begun, text
            return text
