"""The parent's side of the worker processes that serve streams on one port.

Each worker has a full copy of what is served, and receives every change in the same order. A change is published
without waiting for the workers.
"""

import asyncio
import contextlib
import dataclasses
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from xds.address import Address
from xds.config import Settings, tls_files
from xds.limits import summed
from xds.model.catalog import Catalog
from xds.model.changeset import AppliedChangeset
from xds.process.background import Background
from xds.process.loop_lag import LoopLag
from xds.protocol.convergence import Debts
from xds.protocol.errors import StreamRefusedError
from xds.protocol.holders import Holders, HoldersQuery
from xds.protocol.inspection import Inspection, InspectQuery
from xds.protocol.measures import Measures
from xds.protocol.node_history import DrainingNodes, NackedNames
from xds.protocol.status import Counters, NodesFound, NodesQuery, joined
from xds.registry.joining import joined_debts
from xds.registry.known_nodes import KnownNodes, Place
from xds.reporting.attributions import Attributions
from xds.reporting.nacks import Gathered, NackLog
from xds.reporting.rejections import Rejected, RejectionLog
from xds.schema.pool import chosen_schema
from xds.serving.asking import ANSWER_S, Questions, UnansweredError
from xds.serving.feed import (
    Answer,
    Ask,
    Begin,
    DebtsQuery,
    Drain,
    FeedChange,
    Figures,
    Move,
    Probe,
    PublishedTo,
    Ready,
    Reload,
    Remember,
    Sessions,
    decode,
    encode,
)
from xds.serving.memory_watch import MemoryState, MemoryWatch, reader, worst
from xds.serving.names_feed import NamesDecoder, NamesEncoder
from xds.serving.own_figures import process_figures
from xds.serving.served import ServedRevisions
from xds.serving.worker_settings import plain
from xds.serving.workers_state import WorkersState
from xds.telemetry.histogram import Histogram
from xds.telemetry.process_figures import ProcessFigures
from xds.transport.pool import Pool, PooledProcess, PoolEvents
from xds.transport.sockets import bound, open_all, take

log = structlog.get_logger("xds")
WORKER_MODULE = "xds.serving.worker"
FIGURES_S = 1.0
DEBTS_TRIES = 3
"""How often the workers are asked again because a node had a second stream that they were not asked about."""
STATE_KEPT_S = 5.0
"""How long the encoded state is kept for further workers, as most of them begin together."""
EXIT_S = 5.0
"""How long a worker may take to exit after its drain window."""


def log_worker_problem(text: str) -> None:
    """Log that a worker could not be started yet."""
    log.error("a worker is lacking, trying again", problem=text)


@dataclass(slots=True, eq=False)
class _Link:
    """What the parent keeps of one worker while it runs."""

    questions: Questions = field(default_factory=Questions)
    decoder: NamesDecoder = field(default_factory=NamesDecoder)
    encoder: NamesEncoder = field(default_factory=NamesEncoder)
    figures: Figures | None = None
    """Its last figures."""
    accepted: Histogram = field(default_factory=Histogram)
    """The times of its clients to accept changes."""


class WorkerStreams:
    """Serves the catalog in ``count`` worker processes. Same methods as ``xds.serving.streams.Streams``."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        count: int,
        *,
        background: Background | None = None,
        known: KnownNodes | None = None,
        nack_log: NackLog | None = None,
    ) -> None:
        self.known = KnownNodes() if known is None else known
        """The known nodes."""
        self.settings = settings
        self._background = background or Background()
        self._catalog = catalog
        self._workers = count
        nodes_max = settings.protocol.doubtful_nodes_max
        self._nacked = NackedNames(nodes_max=nodes_max, bytes_max=settings.protocol.nacked_bytes_max)
        self._draining = DrainingNodes(nodes_max=nodes_max, bytes_max=settings.protocol.draining_bytes_max)
        self._rejections = RejectionLog()
        self._nack_log = nack_log or NackLog(Attributions(self._background))
        self._links: dict[PooledProcess, _Link] = {}
        self.measures = Measures()
        """What was counted by group and type, and measured, since the start, as of the last ``refresh`` or second."""
        self._lag = LoopLag()
        self.restarts = 0
        """How many workers ended by themselves and were replaced."""
        self._ended = Counters()
        self._ended_tls_failures: Counter[str] = Counter()
        self._ended_hits: dict[str, int] = {}
        overload = settings.overload
        self._memory = MemoryWatch(overload, reader(overload, count + 1), lambda _state: self.on_memory(self.memory))
        self.on_memory: Callable[[MemoryState], None] = lambda _state: None
        """Called with the state of the memory, every second."""
        self._answering: set[asyncio.Task[None]] = set()
        self._sockets: list[socket.socket] = []
        self._pool: Pool | None = None
        self._state: tuple[int, bytes] | None = None
        self._served = ServedRevisions[PooledProcess]()
        self._sent = 0
        """The last revision that was sent to the workers."""

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers."""
        return [worker.pid for worker in self._pool.workers] if self._pool is not None else []

    @property
    def _figures(self) -> list[Figures]:
        """The last figures of each worker that has sent any."""
        return [link.figures for link in self._links.values() if link.figures is not None]

    @property
    def counters(self) -> Counters:
        """Totals since the start, as of the last ``refresh`` or second; streams of a killed worker count as closed."""
        return Counters.sum([self._ended, *(figures.counters for figures in self._figures)])

    @property
    def tls_failures(self) -> Mapping[str, int]:
        """Refused handshakes and client certificates since the start, by reason."""
        total = Counter(self._ended_tls_failures)
        for figures in self._figures:
            total.update(figures.tls_failures)
        return total

    @property
    def client_states(self) -> int:
        """The number of different states that clients share, summed over workers."""
        return sum(figures.client_states for figures in self._figures)

    @property
    def processes(self) -> tuple[ProcessFigures, ...]:
        """The figures of this process and of each worker, by number."""
        found = [process_figures("parent", self._lag)]
        for worker, link in sorted(self._links.items(), key=lambda each: each[0].number):
            if (figures := link.figures) is None:
                continue
            counters = figures.counters
            found.append(
                dataclasses.replace(
                    figures.process,
                    name=f"worker {worker.number}",
                    streams=figures.streams,
                    requests=counters.requests,
                    responses=counters.responses,
                    nacks=counters.nacks,
                    accepted=link.accepted,
                )
            )
        return tuple(found)

    @property
    def limit_hits(self) -> dict[str, int]:
        """How often each limit was reached in the workers, by its label, as of the last ``refresh`` or second."""
        return summed([self._ended_hits, *(figures.limit_hits for figures in self._figures)])

    @property
    def memory(self) -> MemoryState:
        """How short the memory is, in the process that is worst off; at most a second old."""
        return worst([self._memory.state, *(figures.memory for figures in self._figures)])

    @property
    def count(self) -> int:
        """The number of open streams, at most a second old."""
        return sum(figures.streams for figures in self._figures)

    @property
    def count_wanted(self) -> int:
        """The configured number of worker processes."""
        return self._workers

    @property
    def workers(self) -> WorkersState:
        """The state of the worker processes."""
        ready = self._ready()
        silent = tuple(str(worker) for worker in ready if worker.silent)
        return WorkersState(len(ready) - len(silent), silent, self._workers - len(ready))

    def _ready(self) -> list[PooledProcess]:
        workers = self._pool.workers if self._pool is not None else []
        return sorted((worker for worker in workers if worker.ready), key=lambda worker: worker.number)

    # --- Life ------------------------------------------------------------------------------------------------------

    def launch(self) -> None:
        """Bind the address without listening yet, and begin to start the workers. Raises BindError."""
        self._sockets = take(self.settings.listen, count=self._workers)
        events = PoolEvents(
            on_start=self._begin, on_message=self._on_message, on_end=self._on_end, on_problem=log_worker_problem
        )
        self._pool = Pool(WORKER_MODULE, self._sockets, events, background=self._background)
        self._pool.launch()

    async def start(self) -> Address:
        """Listen, wait until the workers serve, and return the address. Raises BindError or WorkerFailedError."""
        if self._pool is None:
            self.launch()
        assert self._pool is not None
        try:
            open_all(self.settings.listen, self._sockets)
            await self._pool.start()
        except BaseException:
            await self.stop()
            raise
        self._memory.start()
        self._lag.start()
        return bound(self.settings.listen, self._sockets[0])

    def publish(self, applied: AppliedChangeset, committed_at: float | None = None) -> None:
        """Send every worker a change of the catalog; ``committed_at`` is when, on the monotonic clock."""
        if self._pool is not None and self._pool.workers:
            assert applied.effect is not None, "nothing changed"
            self._sent = applied.revision
            self._pool.send(encode(FeedChange(applied.revision, applied.effect, committed_at)))

    async def lacking(self, revision: int) -> tuple[str, ...]:
        """Return once streams that begin are sent a revision by every worker, or after a second: those that lack it."""
        target = min(revision, self._sent)  # workers are not sent revisions that change nothing for them
        ready = self._ready()
        silent = {each for each in ready if each.silent}
        lacking = await self._served.wait(set(ready) - silent, target)
        return tuple(sorted(map(str, lacking | self._served.behind(silent, target))))

    # --- Requests to all workers -----------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Bring ``counters`` and ``count`` up to date, as far as the workers answer."""
        with contextlib.suppress(UnansweredError):
            await self._ask_all(None, FIGURES_S)

    async def nodes(self, query: NodesQuery) -> NodesFound:
        """Return the progress of the nodes that match a query, from the workers that answer.

        Raises UnansweredError if none does.
        """
        answers, missing = await self._ask_all(query)
        found = joined((decode(answer) for answer in answers if answer), query)
        return dataclasses.replace(found, missing_workers=missing)

    async def inspect(self, query: InspectQuery) -> Inspection:
        """Return the clients with an id in full, from the workers that answer. Raises UnansweredError if none does."""
        answers, missing = await self._ask_all(query)
        found = Inspection.joined(decode(answer) for answer in answers if answer)
        return dataclasses.replace(found, missing_workers=missing)

    async def holders(self, query: HoldersQuery) -> Holders:
        """Return which clients have which version of a resource. Raises UnansweredError if no worker answers."""
        answers, missing = await self._ask_all(query)
        found = Holders.joined(decode(answer) for answer in answers if answer)
        return dataclasses.replace(found, missing_workers=missing)

    async def debts(self) -> Debts:
        """Return what the nodes of the workers that answer owe, each the worst of its streams.

        Raises UnansweredError if none answers.
        """
        served, last = self._catalog.revision, self._sent
        with self.known.journal() as journal:
            for _ in range(DEBTS_TRIES):
                asked = frozenset(self.known.doubled)
                answers, silent = await self._ask_each(DebtsQuery(asked))
                if self.known.doubled <= asked:
                    break
            self.known.forget(time.time_ns() // 1_000_000)
            said = {worker.pid: decode(answer) for worker, answer in answers.items() if answer}
            found = joined_debts(said, self.known, journal, frozenset(worker.pid for worker in silent))
        missing = tuple(sorted(map(str, silent)))
        # Workers are not sent revisions that change nothing for them.
        revision = served if found.revision >= last else found.revision
        return dataclasses.replace(found, revision=revision, missing_workers=missing)

    async def _ask_all(
        self,
        what: bytes | NodesQuery | InspectQuery | HoldersQuery | Move | DebtsQuery | None,
        within_s: float = ANSWER_S,
    ) -> tuple[list[bytes], tuple[str, ...]]:
        """Send a request to every worker; return the answers, and the names of the workers that did not answer."""
        answers, missing = await self._ask_each(what, within_s)
        return list(answers.values()), tuple(sorted(map(str, missing)))

    async def _ask_each(
        self,
        what: bytes | NodesQuery | InspectQuery | HoldersQuery | Move | DebtsQuery | None,
        within_s: float = ANSWER_S,
    ) -> tuple[dict[PooledProcess, bytes], set[PooledProcess]]:
        """Send a request to every worker; return the answers by worker, and the workers that did not answer.

        Silent workers are skipped. Raises StreamRefusedError if a worker refuses, and UnansweredError if there are
        workers and none answers.
        """
        workers = self._ready()
        asking = [worker for worker in workers if not worker.silent]
        said = await asyncio.gather(*(self._ask(worker, what, within_s) for worker in asking), return_exceptions=True)
        answers: dict[PooledProcess, bytes] = {}
        missing = {worker for worker in workers if worker.silent}
        for worker, answer in zip(asking, said, strict=True):
            if isinstance(answer, UnansweredError):
                missing.add(worker)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                answers[worker] = answer
        if missing and not answers:
            raise UnansweredError
        return answers, missing

    async def _ask(
        self,
        worker: PooledProcess,
        what: bytes | NodesQuery | InspectQuery | HoldersQuery | Move | DebtsQuery | None,
        within_s: float,
    ) -> bytes:
        send: Callable[[Ask], None] = lambda ask: worker.channel.send(encode(ask))  # noqa: E731
        return await self._links[worker].questions.ask(send, what, within_s)

    async def move(self, share: float, over_s: float) -> int:
        """Have every worker that answers end a share of its connections; return how many will be in all.

        Raises UnansweredError if none answers.
        """
        answers, _ = await self._ask_all(Move(share, over_s))
        return sum(decode(answer) for answer in answers if answer)

    # --- The end ---------------------------------------------------------------------------------------------------

    def reload_certificates(self) -> None:
        """Have every worker reload the TLS files; each logs the result."""
        if self._pool is not None:
            self._pool.send(encode(Reload()))

    async def drain(self, window_s: float) -> None:
        """Have every worker end its streams one by one over ``window_s`` seconds, then exit."""
        if self._pool is not None:
            self._close_sockets()
            self._pool.send(encode(Drain(window_s)))
            await self._pool.wait_ended(window_s + EXIT_S)

    async def stop(self) -> None:
        """End every worker now."""
        self._memory.stop()
        self._lag.stop()
        if self._pool is not None:
            await self._pool.stop()
            self._pool = None
        self._nack_log.flush()
        for task in self._answering:
            task.cancel()
        self._close_sockets()

    def _close_sockets(self) -> None:
        for listening in self._sockets:
            listening.close()
        if self._sockets and self.settings.listen.is_unix:
            # Here, not in each worker: the path may be the next server's socket by the time a worker exits.
            with contextlib.suppress(OSError):
                Path(self.settings.listen.path).unlink()
        self._sockets = []

    # --- Workers ---------------------------------------------------------------------------------------------------

    def _begin(self, worker: PooledProcess) -> None:
        self._links[worker] = _Link()
        entries = (*self._nacked.entries(), *self._draining.entries())
        revision = self._catalog.revision
        if self._state is None or self._state[0] != revision:
            self._state = (revision, encode(self._catalog.export()))
            asyncio.get_running_loop().call_later(STATE_KEPT_S, self._forget_state)
        self._served.note(worker, revision)
        begin = Begin(
            settings=plain(self.settings),
            tls=tls_files(self.settings),
            revision=revision,
            state=self._state[1],
            entries=entries,
            schema=chosen_schema(),
            processes=self._workers + 1,
            name=str(worker),
        )
        worker.channel.send(encode(begin))

    def _forget_state(self) -> None:
        self._state = None

    def _on_message(self, worker: PooledProcess, data: bytes) -> None:
        assert self._pool is not None
        link = self._links[worker]
        match link.decoder.decode(data):
            case Ready():
                self._pool.mark_ready(worker)
            case Rejected() as rejected:
                self._rejections.take(worker.pid, rejected)
            case PublishedTo(revision):
                self._served.note(worker, revision)
            case Sessions(events):
                self._probe(self.known.note(worker.pid, events))
            case Gathered() as gathered:
                self._nack_log.take(gathered)
            case Figures() as figures:
                link.figures = figures
                self.measures.add(figures.measures)
                link.accepted.add(figures.measures.all_accepted())
                self.on_memory(self.memory)
            case Remember(entry) as remember:
                self._nacked.remember(entry)
                self._draining.remember(entry)
                for other in self._pool.workers:
                    if other is not worker:
                        other.channel.send(self._links[other].encoder.encode(remember))
            case Ask() as ask:
                task = self._background.run("answer a worker", self._answer(worker, ask))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
            case Answer() as answer:
                link.questions.take(answer)

    def _on_end(self, worker: PooledProcess, code: int, replaced: bool) -> None:
        link = self._links.pop(worker)
        link.questions.give_up()  # its nodes are left out of the answers
        self._served.forget(worker)
        self.known.end_process(worker.pid, time.time_ns() // 1_000_000)
        figures = link.figures
        if figures is not None:
            closed = figures.counters.streams_closed + figures.streams
            last = dataclasses.replace(figures.counters, streams_closed=closed)
            self._ended = Counters.sum([self._ended, last])
            self._ended_tls_failures.update(figures.tls_failures)
            self._ended_hits = summed([self._ended_hits, figures.limit_hits])
        if replaced:
            self.restarts += 1
            streams = figures.streams if figures is not None else 0
            log.error("a worker ended and is replaced", pid=worker.pid, code=code, streams=streams)

    def probe_nodes(self, node_ids: Iterable[str]) -> None:
        """Find out whether the clients of nodes are still there, which have newer streams elsewhere."""
        if self._pool is not None:
            self._probe([each for node_id in node_ids for each in self.known.sessions(node_id)])

    def _probe(self, older: list[Place]) -> None:
        """Have the workers find out whether the clients of these sessions are still there."""
        assert self._pool is not None
        for worker in self._pool.workers if older else ():
            sessions = frozenset(each.session for each in older if each.process == worker.pid)
            if sessions:
                worker.channel.send(encode(Probe(sessions)))

    async def _answer(self, worker: PooledProcess, ask: Ask) -> None:
        """Answer a worker's CSDS request for all workers: concatenated protobuf messages are merged."""
        assert isinstance(ask.what, bytes), "workers request nothing else"
        from xds.api.csds import missing_worker  # grpc takes 10 MB

        try:
            said, missing = await self._ask_all(ask.what)
            answer = Answer(ask.number, b"".join([*said, *map(missing_worker, missing)]))
        except StreamRefusedError as refusal:
            answer = Answer(ask.number, refusal=(refusal.status.name, refusal.message))
        worker.channel.send(encode(answer))
