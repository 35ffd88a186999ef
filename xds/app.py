"""The one place that wires the parts together: a control plane to embed, and the server that ``xds serve`` runs."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog

from xds.address import Address
from xds.api.admin import AdminServer
from xds.api.metrics import metrics_renderer
from xds.config import ServingInfo, Settings
from xds.descriptors import make_all_room
from xds.memory import return_large_blocks, settle_memory
from xds.model.catalog import Catalog
from xds.model.changeset import Applied, Changeset
from xds.model.groups import DEFAULT_GROUP, GroupTable
from xds.model.problem import ChangesetRejectedError, Problem
from xds.model.types import SHORT_NAMES, TYPE_PREFIX, short_name, type_url_of
from xds.protocol.hub import Hub
from xds.reporting import log_degraded, summary
from xds.schema.pool import load_schema
from xds.serving.streams import Streams
from xds.serving.workers import WorkerStreams
from xds.sources.directory import DirectoryReader
from xds.sources.inline import ResourceLike, read_resources
from xds.sources.watch import watch

log = structlog.get_logger("xds")
PROBLEMS_LOGGED_MAX = 20
WATCH_RETRY_MIN_S = 0.5
WATCH_RETRY_MAX_S = 30.0


class ControlPlane:
    """An xDS server to embed: publish resources with ``apply`` and ``replace``, serve them between start and stop.

    Use it in one event loop, as ``async with ControlPlane(settings) as control_plane``. All methods that are not
    coroutines return at once; what they change is on its way to the Envoys when they return.
    """

    def __init__(self, settings: Settings | None = None, *, workers: int = 0) -> None:
        """``workers``: how many processes serve the streams where ``transport.workers`` is left out."""
        self.settings = settings or Settings()
        self._schema = load_schema()
        self.catalog = Catalog()
        self.address: Address | None = None
        self.admin_address: Address | None = None
        self._state = "starting"
        self._rejected = 0
        count = self.settings.transport.worker_count(auto=workers)
        self._streams: Streams | WorkerStreams
        if count:
            self._streams = WorkerStreams(self.settings, self.catalog, count)
        else:
            self._streams = Streams(self.settings, self._schema, self.catalog)
        self._admin: AdminServer | None = None

    @property
    def hub(self) -> Hub:
        """The streams, of a control plane that serves them in its own process (``transport.workers`` 0)."""
        assert isinstance(self._streams, Streams), "worker processes have the streams"
        return self._streams.hub

    @property
    def stream_count(self) -> int:
        """How many streams are open; with worker processes, at most a second ago."""
        return self._streams.count

    @property
    def worker_pids(self) -> list[int]:
        """The ids of the worker processes, if there are any."""
        return self._streams.pids if isinstance(self._streams, WorkerStreams) else []

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
        if applied.effect is not None or applied.regrouped:  # also what no node sees: workers have to know of it
            self._streams.publish(applied)
        return applied

    # --- Life ----------------------------------------------------------------------------------------------------

    async def start(self) -> Address:
        """Listen and serve; return the address that was bound.

        Raises BindError, or WorkerFailedError when a worker process does not begin to serve; nothing is left open then.
        """
        settings = self.settings
        assert self.address is None, "started already"
        make_all_room()
        self._streams.settings = settings
        self.address = await self._streams.start()
        if settings.admin is not None:
            self._admin = AdminServer(
                settings.admin,
                healthy=lambda: True,
                ready=lambda: (self._state == "ready", self._state),
                metrics=metrics_renderer(self._streams, self.catalog, rejected=lambda: self._rejected),
            )
            try:
                self.admin_address = await self._admin.start()
            except OSError:
                await self._streams.stop()
                self.address = None
                raise
        self._state = "ready"
        return self.address

    async def drain(self) -> None:
        """Say that the server is not ready, then end the streams one by one, over the drain window."""
        drain = self.settings.drain
        self._state = "draining"
        if drain.unready_s:
            await asyncio.sleep(drain.unready_s)
        await self._streams.drain(drain.timeout_s)

    async def stop(self) -> None:
        """Close everything. Streams that are still open are cut; ``drain`` first to be gentle."""
        self._state = "stopped"
        self.address = None
        await self._streams.stop()
        if self._admin is not None:
            await self._admin.stop()

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
    return_large_blocks()
    ending = _ending_signals()
    reader = DirectoryReader(settings.directory, progress=progress)
    control_plane = ControlPlane(settings, workers=len(os.sched_getaffinity(0)))
    changeset = await _unless_ended(asyncio.to_thread(reader.read), ending)
    if changeset is None:
        log.info("stopped before anything was served")
        return 0
    control_plane.apply_changeset(changeset)
    settle_memory()
    async with control_plane:
        if announce is not None:
            announce(control_plane.info(settings.directory))
        stop = asyncio.Event()
        following = asyncio.create_task(_follow(control_plane, reader, stop))
        ended = asyncio.create_task(ending.wait())
        await asyncio.wait((following, ended), return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        log.info("draining", streams=control_plane.stream_count, window_s=settings.drain.timeout_s)
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
