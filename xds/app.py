"""The one place that wires the parts together: a control plane to embed, and the server that ``xds serve`` runs."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog

from xds import __version__
from xds.address import Address
from xds.api.admin import AdminServer
from xds.api.csds import ClientStatusService
from xds.api.metrics import metrics_renderer
from xds.config import ServingInfo, Settings
from xds.model.catalog import Catalog
from xds.model.changeset import Applied, Changeset
from xds.model.groups import DEFAULT_GROUP, GroupTable
from xds.model.problem import ChangesetRejectedError, Problem
from xds.model.types import SHORT_NAMES, TYPE_PREFIX, short_name, type_url_of
from xds.protocol.hub import Hub
from xds.protocol.response import Encoding
from xds.protocol.stream import Limits, Ordering
from xds.reporting import log_degraded, log_event, log_fault, log_tls_problem, summary
from xds.schema.pool import load_schema
from xds.sources.directory import DirectoryReader
from xds.sources.inline import ResourceLike, read_resources
from xds.sources.watch import watch
from xds.transport.calls import Reply
from xds.transport.coalescer import Coalescer
from xds.transport.dispatcher import Dispatcher, Transport
from xds.transport.grpcio import GrpcioOptions, GrpcioTransport
from xds.transport.http2.limits import Limits as HttpLimits
from xds.transport.native import NativeOptions, NativeTransport
from xds.transport.reflection import reflection_replies
from xds.transport.tls import TlsFiles

log = structlog.get_logger("xds")
PROBLEMS_LOGGED_MAX = 20
WATCH_RETRY_MIN_S = 0.5
WATCH_RETRY_MAX_S = 30.0


class ControlPlane:
    """An xDS server to embed: publish resources with ``apply`` and ``replace``, serve them between start and stop.

    Use it in one event loop, as ``async with ControlPlane(settings) as control_plane``. All methods that are not
    coroutines return at once; what they change is on its way to the Envoys when they return.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self._schema = load_schema()
        self.catalog = Catalog()
        self.address: Address | None = None
        self.admin_address: Address | None = None
        self._state = "starting"
        self._rejected = 0
        protocol = self.settings.protocol
        self.hub = Hub(
            self.catalog,
            knows_type=self._knows_type,
            ordering=Ordering(
                enabled=protocol.ordering,
                hold_timeout_s=protocol.hold_timeout_s,
                listener_drain_s=protocol.listener_drain_s,
            ),
            encoding=Encoding(
                response_bytes_max=protocol.response_bytes_max, identifier=f"xds-control-plane/{__version__}"
            ),
            limits=Limits(subscriptions_max=protocol.subscriptions_max, doubtful_nodes_max=protocol.doubtful_nodes_max),
        )
        self._dispatcher: Dispatcher | None = None
        self._coalescer: Coalescer | None = None
        self._transport: Transport | None = None
        self._admin: AdminServer | None = None

    def _knows_type(self, type_url: str) -> bool:
        return type_url.startswith(TYPE_PREFIX) and self._schema.has(type_url.removeprefix(TYPE_PREFIX))

    # --- Publishing --------------------------------------------------------------------------------------------

    def apply(
        self,
        *,
        upsert: Iterable[ResourceLike] = (),
        remove: Iterable[tuple[str, str]] = (),
        group: str = DEFAULT_GROUP,
    ) -> Applied:
        """Add, change and remove resources of a group, all or none.

        A resource is a dict in Envoy's JSON form with ``@type``, YAML text, an ``envoy-data-plane`` message or a
        google.protobuf one. What is removed is named by type (``clusters``, or a type URL) and name.
        Raises ChangesetRejectedError with every problem; what was served then stays served.
        """
        removals = tuple((type_url_of(word), name) for word, name in remove)
        unknown = {type_url for type_url, _ in removals if not self._schema.has(type_url.removeprefix(TYPE_PREFIX))}
        if unknown:
            self._rejected += 1
            raise ChangesetRejectedError([_not_a_type(type_url, group) for type_url in sorted(unknown)])
        return self._apply_read({group: upsert}, removals={group: removals} if removals else {})

    def replace(self, groups: Mapping[str, Iterable[ResourceLike]], *, rules: GroupTable | None = None) -> Applied:
        """Make these the only groups and resources there are, all or none. Raises ChangesetRejectedError."""
        return self._apply_read(groups, replace=True, rules=rules)

    def _apply_read(
        self,
        groups: Mapping[str, Iterable[ResourceLike]],
        *,
        removals: Mapping[str, tuple[tuple[str, str], ...]] | None = None,
        replace: bool = False,
        rules: GroupTable | None = None,
    ) -> Applied:
        try:
            upserts = {group: read_resources(items, group=group) for group, items in groups.items()}
        except ChangesetRejectedError:
            self._rejected += 1
            raise
        if not replace:  # what is empty does not make a group, as a removal does not
            upserts = {group: resources for group, resources in upserts.items() if resources}
        changeset = Changeset(upserts=upserts, removals=dict(removals or {}), groups=rules, replace=replace)
        return self.apply_changeset(changeset)

    def apply_changeset(self, changeset: Changeset) -> Applied:
        """Apply a changeset whole, and bring the streams up to date. Raises ChangesetRejectedError."""
        try:
            applied = self.catalog.apply(changeset)
        except ChangesetRejectedError:
            self._rejected += 1
            raise
        if applied.changed or applied.regrouped:
            if self._coalescer is None:
                self.hub.publish(applied)
            else:
                self._coalescer.add(applied)
        return applied

    # --- Life ----------------------------------------------------------------------------------------------------

    async def start(self) -> Address:
        """Listen and serve; return the address that was bound. Raises BindError, then leaving nothing open."""
        settings = self.settings
        assert self._dispatcher is None, "started already"
        self._dispatcher = Dispatcher(
            self.hub, on_event=log_event, on_fault=log_fault, streams_max=settings.transport.streams_max
        )
        self._coalescer = Coalescer(
            self._dispatcher.publish,
            coalesce_s=settings.protocol.coalesce_s,
            coalesce_max_s=settings.protocol.coalesce_max_s,
        )
        self._transport = self._new_transport(self._dispatcher)
        self.address = await self._transport.start()
        if settings.admin is not None:
            self._admin = AdminServer(
                settings.admin,
                healthy=lambda: True,
                ready=lambda: (self._state == "ready", self._state),
                metrics=metrics_renderer(self.hub, self.catalog, rejected=lambda: self._rejected),
            )
            try:
                self.admin_address = await self._admin.start()
            except OSError:
                await self._transport.stop(0)
                raise
        self._state = "ready"
        return self.address

    def _new_transport(self, dispatcher: Dispatcher) -> Transport:
        if self.settings.transport.kind == "native":
            return NativeTransport(
                self.settings.listen,
                dispatcher,
                options=self._native_options(),
                replies=self._replies(),
                on_problem=log_tls_problem,
            )
        return GrpcioTransport(
            self.settings.listen,
            dispatcher,
            options=self._grpcio_options(),
            handlers=self._handlers(),
            on_problem=log_tls_problem,
        )

    def _replies(self) -> dict[str, Reply]:
        replies: dict[str, Reply] = {}
        if self.settings.csds:
            replies |= self._client_status().replies()
        if self.settings.reflection:
            replies |= reflection_replies(self._schema.pool)
        return replies

    def _handlers(self) -> list[Any]:
        return [self._client_status().handler()] if self.settings.csds else []

    def _client_status(self) -> ClientStatusService:
        return ClientStatusService(self.hub, self._schema, asyncio.get_running_loop().time)

    def _tls_files(self) -> TlsFiles | None:
        tls = self.settings.tls
        if tls.cert is None or tls.key is None:
            return None
        return TlsFiles(cert=tls.cert, key=tls.key, client_ca=tls.client_ca)

    def _native_options(self) -> NativeOptions:
        transport = self.settings.transport
        return NativeOptions(
            keepalive_interval_s=transport.keepalive_interval_s,
            keepalive_timeout_s=transport.keepalive_timeout_s,
            ping_interval_min_s=transport.ping_interval_min_s,
            limits=HttpLimits(message_bytes_max=transport.message_bytes_max),
            tls=self._tls_files(),
        )

    def _grpcio_options(self) -> GrpcioOptions:
        settings = self.settings
        transport = settings.transport
        return GrpcioOptions(
            keepalive_interval_s=transport.keepalive_interval_s,
            keepalive_timeout_s=transport.keepalive_timeout_s,
            ping_interval_min_s=transport.ping_interval_min_s,
            message_bytes_max=transport.message_bytes_max,
            streams_max=transport.streams_max,
            pending_max=transport.pending_max,
            tls=self._tls_files(),
            reflection_pool=self._schema.pool if settings.reflection else None,
        )

    async def drain(self) -> None:
        """Say that the server is not ready, then end the streams one by one, over the drain window."""
        drain = self.settings.drain
        self._state = "draining"
        if drain.unready_s:
            await asyncio.sleep(drain.unready_s)
        if self._transport is not None:
            await self._transport.drain(drain.timeout_s)

    async def stop(self) -> None:
        """Close everything. Streams that are still open are cut; ``drain`` first to be gentle."""
        self._state = "stopped"
        if self._coalescer is not None:
            self._coalescer.flush()
            self._coalescer = None
        if self._transport is not None:
            await self._transport.stop(0)
        if self._admin is not None:
            await self._admin.stop()
        if self._dispatcher is not None:
            self._dispatcher.stop()
            self._dispatcher = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def info(self, directory: Path | None = None) -> ServingInfo:
        """Return what is served, and where."""
        assert self.address is not None, "started"
        resources = {
            group: {short_name(type_url): len(view) for type_url, view in sorted(snapshot.views.items()) if len(view)}
            for group, snapshot in self.catalog.snapshots.items()
        }
        return ServingInfo(
            listen=self.address,
            admin=self.admin_address,
            tls=self.settings.tls.mode,
            directory=directory,
            resources=resources,
        )


def _not_a_type(type_url: str, group: str) -> Problem:
    word = type_url.removeprefix(TYPE_PREFIX)
    close = get_close_matches(word, SHORT_NAMES, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(SHORT_NAMES)}, and type URLs"
    return Problem(what=f"{word!r} is not a resource type", hint=hint, group=group)


async def serve(
    settings: Settings,
    *,
    announce: Callable[[ServingInfo], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Serve a directory until SIGTERM or SIGINT, then drain; return the process's exit code.

    ``announce`` is told once what is served; ``progress`` how many bytes of how many are read. Raises BindError,
    and ChangesetRejectedError when the directory can't be served at first.
    """
    assert settings.directory is not None, "the command line sees to it"
    ending = _ending_signals()
    reader = DirectoryReader(settings.directory, progress=progress)
    control_plane = ControlPlane(settings)
    changeset = await _unless_ended(asyncio.to_thread(reader.read), ending)
    if changeset is None:
        log.info("stopped before anything was served")
        return 0
    control_plane.apply_changeset(changeset)
    async with control_plane:
        if announce is not None:
            announce(control_plane.info(settings.directory))
        stop = asyncio.Event()
        following = asyncio.create_task(_follow(control_plane, reader, stop))
        ended = asyncio.create_task(ending.wait())
        await asyncio.wait((following, ended), return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        log.info("draining", streams=len(control_plane.hub.streams), window_s=settings.drain.timeout_s)
        await _unless_asked_again(control_plane.drain())
        stop.set()
        await following
    log.info("stopped")
    return 0


async def _unless_ended(reading: Coroutine[Any, Any, Changeset], ending: asyncio.Event) -> Changeset | None:
    """Return what is read, or None as soon as the process is to end; the reading thread is left to itself then."""
    read, ended = asyncio.create_task(reading), asyncio.create_task(ending.wait())
    await asyncio.wait((read, ended), return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()
    return await read if read.done() else None


def _ending_signals() -> asyncio.Event:
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    return ending


async def _unless_asked_again(draining: Awaitable[None]) -> None:
    """Wait for the end of draining, or for a second signal, which means at once."""
    again = _ending_signals()
    tasks = (asyncio.ensure_future(draining), asyncio.create_task(again.wait()))
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _follow(control_plane: ControlPlane, reader: DirectoryReader, stop: asyncio.Event) -> None:
    """Apply every change of the directory until told to stop; whatever happens, what is served stays served."""
    pause_s = WATCH_RETRY_MIN_S
    while not stop.is_set():
        try:
            async for outcome in watch(reader, stop=stop, on_degraded=log_degraded):
                _take(control_plane, outcome)
                pause_s = WATCH_RETRY_MIN_S
        except Exception as error:
            log.error("the directory can't be watched, trying again", error=repr(error), retry_s=pause_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause_s)
            pause_s = min(2 * pause_s, WATCH_RETRY_MAX_S)


def _take(control_plane: ControlPlane, outcome: Changeset | ChangesetRejectedError) -> None:
    """Apply one change of the directory, or say what is wrong with it."""
    try:
        if isinstance(outcome, ChangesetRejectedError):
            raise outcome
        applied = control_plane.apply_changeset(outcome)
    except ChangesetRejectedError as error:
        log.error("change rejected, what was served stays served", problems=len(error.problems))
        for problem in error.problems[:PROBLEMS_LOGGED_MAX]:
            log.error("problem", problem=str(problem))
        return
    if applied.changed or applied.regrouped:
        log.info("applied", revision=applied.revision, changed=summary(applied))
