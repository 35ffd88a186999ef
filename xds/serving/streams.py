"""The streams of one process: hub, dispatcher, merging of changes, and the transport.

An ``App`` that serves its streams itself has one ``Streams``; otherwise each worker process has one.
Modules that only some processes need are imported where they are used: grpc alone takes 10 MB.
"""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Set
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from xds.address import Address
from xds.limits import LimitHits
from xds.model.catalog import Catalog
from xds.model.changeset import Applied
from xds.model.identity import Peer
from xds.model.types import TYPE_PREFIX
from xds.process.background import Background
from xds.process.loop_lag import LoopLag
from xds.process.memory import return_holes
from xds.protocol.client_state import debt_with
from xds.protocol.convergence import Debts
from xds.protocol.holders import Holders, HoldersQuery
from xds.protocol.hub import Hub
from xds.protocol.inspection import Inspection, InspectQuery
from xds.protocol.measures import Measures
from xds.protocol.node_history import Share, share_with_nobody
from xds.protocol.policy import Limits, Ordering
from xds.protocol.responses import Encoding
from xds.protocol.sessions import Session
from xds.protocol.status import Counters, Event, Nacked, NodesFound, NodesQuery, nodes_page
from xds.registry.joining import ProcessDebts, joined_debts
from xds.registry.known_nodes import KnownNodes
from xds.registry.session_events import SessionEvent
from xds.reporting.attributions import Attributions
from xds.reporting.events import keys_log, log_certificates, log_event, log_fault, log_tls_failure, log_tls_problem
from xds.reporting.merged_log import peers_log
from xds.reporting.nacks import Gathered, NackGatherer, NackLog
from xds.reporting.rejections import Rejected, RejectionLog, Rejections
from xds.schema.pool import Schema
from xds.schema.scrub import hider_of
from xds.serving.inspection import holders, inspect
from xds.serving.memory_watch import MemoryState, MemoryWatch, reader
from xds.serving.own_figures import process_figures
from xds.serving.served import ServedRevisions
from xds.serving.session_feed import SessionFeed
from xds.serving.workers_state import WorkersState
from xds.telemetry.process_figures import ProcessFigures
from xds.transport.admission import AdmissionLimits, StreamAdmission
from xds.transport.calls import Reply
from xds.transport.coalescer import Coalescer
from xds.transport.dispatcher import Dispatcher, Transport
from xds.transport.http2.limits import Http2Limits
from xds.transport.native import NativeOptions, NativeTransport
from xds.transport.tls import TlsFiles
from xds.transport.tls_failures import TlsFailure
from xds.version import __version__

if TYPE_CHECKING:
    from xds.api.csds import ClientStatusService
    from xds.config import Settings
    from xds.serving.node_tokens import NodeTokens
    from xds.transport.grpcio import GrpcioOptions

PROBE_S = 3.0
"""How long a client may take to answer a ping once its node has a newer stream."""
REPLACED = f"its node has a newer stream, and it did not answer a ping for {PROBE_S:g} s"
OWN_PROCESS = 0
"""The number of a process in its own table of known nodes."""


class Streams:
    """Serves the catalog and the changes published later. ``hub`` exists before ``start``."""

    def __init__(
        self,
        settings: "Settings",
        schema: Schema,
        catalog: Catalog,
        *,
        tls: TlsFiles | None,
        share: Share = share_with_nobody,
        processes: int = 1,
        on_rejected: Callable[[Rejected], None] | None = None,
        on_nacks: Callable[[Gathered], None] | None = None,
        known: KnownNodes | None = None,
        on_sessions: Callable[[list[SessionEvent]], None] | None = None,
        on_published: Callable[[int], None] = lambda _revision: None,
        name: str = "",
    ) -> None:
        """Create them; ``processes`` of the server share the memory, ``name`` is that of this worker.

        ``tls`` has the files of the xDS port's TLS, None without TLS. ``on_published`` is called with each revision
        that new streams are sent from now on. ``on_sessions`` is called with what happens to the sessions, in batches;
        without it, ``known`` is kept by it. ``on_nacks`` is called with the NACKs of each second; without it, they are
        logged here.
        """
        self.settings = settings
        self._tls = tls
        self._name = name
        self._epoch_s = 0.0
        """The time of 1970 on the event loop's clock, which the hub uses."""
        self._schema = schema
        self._catalog = catalog
        self.known = KnownNodes() if known is None else known
        """The known nodes, where they are kept in this process."""
        self._on_published = on_published
        self._served = ServedRevisions[int]({OWN_PROCESS: 0})
        self._given = 0
        """The last revision that was to be published."""
        self._sessions = SessionFeed(on_sessions or self._note_sessions)
        self._found: tuple[frozenset[str], int, list[Session]] = (frozenset(), 0, [])
        """The nodes that were looked for last, the number of sessions by then, and their sessions."""
        self.hub = self._new_hub(share)
        self.hits = LimitHits()
        """The limits reached by this process's clients."""
        self.admission = StreamAdmission(_admission_limits(settings), self.hits)
        self._memory = MemoryWatch(settings.overload, reader(settings.overload, processes), self._on_memory)
        self.on_memory: Callable[[MemoryState], None] = lambda _state: None
        """Called with the state of the memory, every second."""
        self._rejections = Rejections(on_rejected or partial(RejectionLog().take, 0))
        self._nack_log = NackLog(Attributions(Background())) if on_nacks is None else None
        self._nacks = self._new_gatherer(on_nacks)
        self.connections_max = settings.connections.xds_max
        """Lower it before ``start`` if there are too few descriptors."""
        self.tls_failures: Counter[str] = Counter()
        """Refused handshakes and client certificates since the start, by reason."""
        self.lag = LoopLag(self._on_still)
        """How late this process's event loop is."""
        self._tokens: NodeTokens | None = None
        self._dispatcher: Dispatcher | None = None
        self._coalescer: Coalescer | None = None
        self._transport: Transport | None = None

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Nacked):
            self._nacks.take(event)
            self._rejections.take(event)
        else:
            log_event(event)

    def _on_still(self) -> None:
        if self._dispatcher is not None:
            self._dispatcher.stood_still()

    def _new_hub(self, share: Share) -> Hub:
        return Hub(
            self._catalog,
            knows_type=self._knows_type,
            ordering=_ordering(self.settings),
            encoding=_encoding(self.settings),
            limits=_limits(self.settings),
            share=share,
            watch=self._sessions,
            hider=hider_of,
        )

    def _new_gatherer(self, on_nacks: Callable[[Gathered], None] | None) -> NackGatherer:
        if on_nacks is None:
            return NackGatherer(self._log_nacks)
        return NackGatherer(on_nacks, asks=self.settings.validation.attributes_nacks)

    def _log_nacks(self, gathered: Gathered) -> None:
        assert self._nack_log is not None
        self._nack_log.take(gathered)

    def _note_sessions(self, events: list[SessionEvent]) -> None:
        older = self.known.note(OWN_PROCESS, events)
        if older:
            self.probe({each.session for each in older})

    def probe_nodes(self, node_ids: Iterable[str]) -> None:
        """Do the same for all sessions of nodes, which have newer streams elsewhere."""
        self.probe({each.session for node_id in node_ids for each in self.known.sessions(node_id)})

    def probe(self, sessions: Set[int]) -> None:
        """Close the connections of sessions whose clients do not answer: their nodes have newer streams."""
        if self._dispatcher is not None:
            self._dispatcher.probe(sessions, PROBE_S, REPLACED)

    def _knows_type(self, type_url: str) -> bool:
        if self.settings.unknown_types == "pass":
            return True
        return type_url.startswith(TYPE_PREFIX) and self._schema.has(type_url.removeprefix(TYPE_PREFIX))

    @property
    def counters(self) -> Counters:
        """Totals since the start."""
        return self.hub.counters

    @property
    def measures(self) -> Measures:
        """What was counted by group and type, and measured, since the start."""
        self.hub.settle(asyncio.get_running_loop().time())
        return self.hub.measures

    def take_measures(self) -> Measures:
        """Return what was counted and measured since the last call."""
        self.hub.settle(asyncio.get_running_loop().time())
        return self.hub.take_measures()

    @property
    def restarts(self) -> int:
        """How many workers were replaced; there are none here."""
        return 0

    @property
    def client_states(self) -> int:
        """The number of different states that clients share."""
        return self.hub.client_states

    @property
    def processes(self) -> tuple[ProcessFigures, ...]:
        """The figures of this process, which has the streams."""
        counters = self.counters
        own = process_figures("parent", self.lag)
        return (
            replace(
                own,
                streams=self.count,
                requests=counters.requests,
                responses=counters.responses,
                nacks=counters.nacks,
                accepted=self.hub.measures.all_accepted(),
            ),
        )

    @property
    def limit_hits(self) -> dict[str, int]:
        """How often each limit was reached, by its label."""
        nacked, draining = self.hub.evicted_nodes
        return self.hits.counts() | {"nacked_nodes": nacked, "draining_nodes": draining}

    @property
    def memory(self) -> MemoryState:
        """How short the memory is."""
        return self._memory.state

    def _on_memory(self, state: MemoryState) -> None:
        self.admission.set_pressure(state.pressure)
        self.on_memory(state)

    @property
    def count(self) -> int:
        """The number of open streams."""
        return len(self.hub.streams)

    async def refresh(self) -> None:
        """Bring ``counters`` and ``count`` up to date; here they always are."""

    @property
    def workers(self) -> WorkersState:
        """The state of the worker processes, of which there are none here."""
        return WorkersState()

    async def nodes(self, query: NodesQuery) -> NodesFound:
        """Return the progress of the nodes that match a query."""
        return self._page(query)

    def _page(self, query: NodesQuery) -> NodesFound:
        found = nodes_page(
            self.hub.streams,
            query,
            asyncio.get_running_loop().time(),
            revision=self._published,
            epoch_s=self._epoch_s,
            address_of=address_of,
        )
        return replace(found, nodes=tuple(replace(each, worker=self._name) for each in found.nodes))

    async def inspect(self, query: InspectQuery) -> Inspection:
        """Return the clients with an id in full."""
        now = asyncio.get_running_loop().time()
        return inspect(self.hub, query, now, epoch_s=self._epoch_s, page=self._page)

    async def holders(self, query: HoldersQuery) -> Holders:
        """Return which clients have which version of a resource."""
        return holders(self.hub, query)

    async def debts(self) -> Debts:
        """Return what the nodes owe, each the worst of its streams."""
        self._sessions.flush()
        self.known.forget(time.time_ns() // 1_000_000)
        with self.known.journal() as journal:
            return joined_debts({OWN_PROCESS: self.own_debts(self.known.doubled)}, self.known, journal)

    def own_debts(self, doubled: Set[str]) -> ProcessDebts:
        """Return what the clients of this process owe, and apart from that each session of the given nodes.

        What happened to the sessions is passed on before.
        """
        self._sessions.flush()
        debts = Debts(revision=self._published, by_group=self.hub.debts())
        several = tuple(
            (session.node.id, session.group, debt_with(session.client_state.debt, session.marks))
            for session in self._sessions_of(frozenset(doubled))
            if session.streams
        )
        return ProcessDebts(debts, several, self._sessions.count)

    def _sessions_of(self, node_ids: frozenset[str]) -> list[Session]:
        """Return the sessions of nodes, found by a walk over the streams unless they are the same as before."""
        if not node_ids:
            return []
        if self._found[:2] != (node_ids, self._sessions.begun):
            found = {id(s): s for each in self.hub.streams if (s := each.session) is not None and s.node.id in node_ids}
            self._found = (node_ids, self._sessions.begun, list(found.values()))
        return self._found[2]

    @property
    def _published(self) -> int:
        """The revision to which the streams are updated, all of them."""
        waits = self._coalescer is not None and self._coalescer.is_waiting
        return self.hub.reached_revision if waits or self.hub.is_regrouping else self._catalog.revision

    def publish(self, applied: Applied, committed_at: float | None = None) -> None:
        """Send a change of the catalog to the affected streams, at once or merged with those that follow.

        ``committed_at`` is when it was committed, on the monotonic clock.
        """
        if committed_at is not None:
            self.hub.note_commit(applied.revision, committed_at)
        self._given = applied.revision
        if self._coalescer is None:
            self._publish(applied)
        else:
            self._coalescer.add(applied)

    def _publish(self, applied: Applied) -> None:
        if self._dispatcher is None:
            self.hub.publish(applied)
        else:
            self._dispatcher.publish(applied)
        self._served.note(OWN_PROCESS, applied.revision)
        self._on_published(applied.revision)

    async def lacking(self, revision: int) -> tuple[str, ...]:
        """Return once a stream that begins is sent a revision, or after a second: the processes that lack it."""
        lacking = await self._served.wait((OWN_PROCESS,), min(revision, self._given))
        return ("this server",) if lacking else ()

    async def start(self, *, listening: socket.socket | None = None, ask_status: Reply | None = None) -> Address:
        """Listen, or serve on ``listening``, and return the address. Raises BindError.

        ``ask_status`` answers CSDS requests instead of ``client_status``, which covers this process only.
        """
        settings = self.settings
        assert self._dispatcher is None, "started already"
        self._epoch_s = asyncio.get_running_loop().time() - time.time()
        self._dispatcher = Dispatcher(self.hub, on_event=self._on_event, on_fault=log_fault, admission=self.admission)
        self._coalescer = Coalescer(
            self._publish,
            coalesce_s=settings.protocol.coalesce_s,
            coalesce_max_s=settings.protocol.coalesce_max_s,
        )
        if settings.identity.source == "token":
            from xds.serving.node_tokens import NodeTokens

            self._tokens = NodeTokens(settings, self.counters, self._make_token_peer)
            await self._tokens.start()
        self._transport = self._new_transport(self._dispatcher, listening, ask_status)
        address = await self._transport.start()
        self._memory.start()
        self.lag.start()
        return address

    def reload_certificates(self) -> None:
        """Reload the TLS files, and log the result. New connections use the new certificate."""
        if self._transport is not None and self._transport.reload_certificates():
            log_certificates("xDS")

    async def move(self, share: float, over_s: float) -> int:
        """End a share of the connections at random times within ``over_s``; return how many will be."""
        return self._transport.move(share, over_s) if self._transport is not None else 0

    async def drain(self, window_s: float) -> None:
        """Accept no new streams, and end the open ones one by one over ``window_s`` seconds."""
        if self._transport is not None:
            await self._transport.drain(window_s)

    async def stop(self) -> None:
        """Close everything. Open streams are cut off."""
        self._memory.stop()
        self.lag.stop()
        if self._coalescer is not None:
            self._coalescer.flush()
            self._coalescer = None
        if self._transport is not None:
            await self._transport.stop(0)
        if self._tokens is not None:
            await self._tokens.stop()
            self._tokens = None
            keys_log.flush()
        if self._dispatcher is not None:
            self._dispatcher.stop()
            self._dispatcher = None
        self._nacks.flush()
        if self._nack_log is not None:
            self._nack_log.flush()
        self._sessions.flush()
        peers_log.flush()

    # --- The transport ---------------------------------------------------------------------------------------------

    def _new_transport(
        self, dispatcher: Dispatcher, listening: socket.socket | None, ask_status: Reply | None
    ) -> Transport:
        settings = self.settings
        if settings.transport.kind == "native":
            return NativeTransport(
                settings.listen,
                dispatcher,
                options=self._native_options(),
                replies=self._replies(ask_status),
                on_problem=log_tls_problem,
                on_tls_failure=self._note_tls_failure,
                return_memory=return_holes,
                listening=listening,
                hits=self.hits,
            )
        from xds.transport.grpcio import GrpcioTransport

        return GrpcioTransport(
            settings.listen,
            dispatcher,
            options=self._grpcio_options(),
            handlers=self._handlers(),
            on_problem=log_tls_problem,
            on_tls_failure=self._note_tls_failure,
        )

    def _replies(self, ask_status: Reply | None) -> dict[str, Reply]:
        replies: dict[str, Reply] = {}
        if self.settings.csds:
            from xds.api.csds import PATHS as CSDS_PATHS

            replies |= dict.fromkeys(CSDS_PATHS, ask_status or self.client_status().reply)
        if self.settings.reflection:
            from xds.transport.reflection import reflection_replies

            replies |= reflection_replies(self._schema.pool)
        return replies

    def _handlers(self) -> list[Any]:
        return [self.client_status().handler()] if self.settings.csds else []

    def client_status(self) -> "ClientStatusService":
        """Return the CSDS service for the streams of this process."""
        from xds.api.csds import ClientStatusService

        return ClientStatusService(self.hub, self._schema, asyncio.get_running_loop().time)

    def _note_tls_failure(self, failure: TlsFailure) -> None:
        self.tls_failures[failure.reason] += 1
        log_tls_failure("xDS", failure)

    def _make_peer(self, identity: tuple[str, ...]) -> Peer:
        """Return the peer of a client with a certificate."""
        given = _gives_secrets(self.settings, tls=True, authenticated=True, identity=bool(identity))
        return Peer(identity, gets_secrets=given)

    def _make_token_peer(self, identity: tuple[str, ...]) -> Peer:
        """Return the peer of a client with a token, which the identity is from."""
        given = _gives_secrets(self.settings, tls=self.settings.tls.mode != "off", authenticated=True, identity=True)
        return Peer(identity, gets_secrets=given)

    def _native_options(self) -> NativeOptions:
        settings = self.settings
        transport, connections, tls = settings.transport, settings.connections, settings.tls.mode != "off"
        return NativeOptions(
            keepalive_interval_s=transport.keepalive_interval_s,
            keepalive_timeout_s=transport.keepalive_timeout_s,
            ping_interval_min_s=transport.ping_interval_min_s,
            handshake_s=connections.handshake_timeout_s,
            idle_s=connections.idle_timeout_s,
            connections_max=self.connections_max,
            limits=Http2Limits(
                streams_max=transport.connection_streams_max,
                message_bytes_max=transport.message_bytes_max,
                chores=transport.chores_max,
                chores_per_s=transport.chores_per_s,
                unread_bytes_max=transport.unread_bytes_max,
            ),
            assembly_bytes_max=transport.assembly_bytes_max,
            waiting_bytes_max=transport.waiting_bytes_max,
            age_max_s=connections.age_max_s,
            age_grace_s=connections.age_grace_s,
            tls=self._tls,
            anonymous=Peer(gets_secrets=_gives_secrets(settings, tls=tls, authenticated=False, identity=False)),
            make_peer=self._make_peer,
            tokens=None if self._tokens is None else self._tokens.tokens,
        )

    def _grpcio_options(self) -> "GrpcioOptions":
        from xds.transport.grpcio import GrpcioOptions

        settings = self.settings
        transport, tls = settings.transport, settings.tls.mode != "off"
        return GrpcioOptions(
            keepalive_interval_s=transport.keepalive_interval_s,
            keepalive_timeout_s=transport.keepalive_timeout_s,
            ping_interval_min_s=transport.ping_interval_min_s,
            message_bytes_max=transport.message_bytes_max,
            pending_max=transport.pending_max,
            handshake_s=settings.connections.handshake_timeout_s,
            idle_s=settings.connections.idle_timeout_s,
            connections_max=self.connections_max,
            connection_streams_max=transport.connection_streams_max,
            age_max_s=settings.connections.age_max_s,
            age_grace_s=settings.connections.age_grace_s,
            tls=self._tls,
            anonymous=Peer(gets_secrets=_gives_secrets(settings, tls=tls, authenticated=False, identity=False)),
            make_peer=self._make_peer,
            tokens=None if self._tokens is None else self._tokens.tokens,
            reflection_pool=self._schema.pool if settings.reflection else None,
        )


def address_of(session: Session) -> str:
    """Return where the client of a session connects from."""
    return session.streams[0].address


def _gives_secrets(settings: "Settings", *, tls: bool, authenticated: bool, identity: bool) -> bool:
    """Return whether a client gets secrets that connects over TLS or not, and has shown this much of itself."""
    shown = {"none": True, "tls": tls, "authenticated": authenticated, "identity": identity}
    return shown[settings.secrets_require]


def _ordering(settings: "Settings") -> Ordering:
    protocol = settings.protocol
    return Ordering(
        enabled=protocol.ordering,
        hold_timeout_s=protocol.hold_timeout_s,
        listener_drain_s=protocol.listener_drain_s,
    )


def _encoding(settings: "Settings") -> Encoding:
    identifier = f"xds-control-plane/{__version__}"
    return Encoding(response_bytes_max=settings.protocol.response_bytes_max, identifier=identifier)


def _limits(settings: "Settings") -> Limits:
    protocol = settings.protocol
    return Limits(
        node_bytes_max=protocol.node_bytes_max,
        subscriptions_max=protocol.subscriptions_max,
        types_max=protocol.types_max,
        names_bytes_max=protocol.names_bytes_max,
        worker_names_bytes_max=protocol.worker_names_bytes_max,
        doubtful_nodes_max=protocol.doubtful_nodes_max,
        nacked_bytes_max=protocol.nacked_bytes_max,
        draining_bytes_max=protocol.draining_bytes_max,
    )


def _admission_limits(settings: "Settings") -> AdmissionLimits:
    overload = settings.overload
    return AdmissionLimits(
        streams_max=settings.transport.streams_max,
        waiting_max=overload.waiting_max,
        wait_max_s=overload.wait_max_s,
        slow_streams_per_s=overload.slow_streams_per_s,
    )
