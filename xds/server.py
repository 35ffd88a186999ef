"""The server process of ``xds serve``: a control plane with store, publisher, directory and push API."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from xds.access.audit import DONE, REJECTED
from xds.api.admin import not_loaded_yet
from xds.api.call_turns import give_way_while
from xds.app import App
from xds.config import ServingInfo, Settings, StoreSettings, api_tls_files
from xds.model.changeset import Changeset
from xds.model.problem import ChangesetRejectedError, Problem
from xds.model.snapshot import Snapshot
from xds.process.core_dumps import forbid_core_dumps
from xds.process.memory import HoleWatch, hold_collection, return_holes, return_large_blocks, settle_memory
from xds.process.systemd import notify
from xds.publishing.changes import Change, Published
from xds.publishing.publisher import Publisher
from xds.publishing.retention import Retention
from xds.publishing.whole import change_of_directory, is_newest_of, no_directory
from xds.replicated import FleetAnswers, fleet_answers
from xds.reporting.directory_status import DirectoryStatus
from xds.reporting.events import (
    log_certificates,
    log_degraded,
    log_entry,
    log_open_api,
    log_open_xds,
    log_plain_values,
    log_rejected,
    log_tls_problem,
)
from xds.sources.directory import DirectoryLimits, DirectoryReader
from xds.sources.tree import TreeLimits
from xds.sources.watch import Rereading, watch
from xds.sources.yaml_reader import YamlLimits
from xds.store.entries import Store
from xds.store.errors import OutcomeUnknownError, StoreError, UnavailableError
from xds.store.etcd_client import EtcdOptions
from xds.store.keys import KeysError
from xds.store.opening import open_store
from xds.store.sealed import SealedStore
from xds.telemetry.errors import TracesMissingError
from xds.version import __version__

if TYPE_CHECKING:
    from xds.api.admission import Admission
    from xds.api.grpc_api import GrpcApi, GrpcLimits
    from xds.page.forms import Forms
    from xds.telemetry.traces import Traces
    from xds.validation.gate import EnvoyGate, NackJudge
    from xds.validation.judge import Judge

log = structlog.get_logger("xds")
T = TypeVar("T")
WATCH_RETRY_MIN_S = 0.5
WATCH_RETRY_MAX_S = 30.0
SWITCH_S = 0.0005
"""How long a thread may keep the event loop waiting each time. A push takes a dozen such turns, of 5 ms by default."""
REFUSED_RETRY_S = 1.0
REFUSED_RETRY_SHARE = 10
"""A directory that was refused beside what others pushed is tried again after each push, but only after a second, and
after ten times as long as the last try took."""


async def serve(
    settings: Settings,
    *,
    announce: Callable[[ServingInfo], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT, then drain; return the process's exit code.

    ``announce`` is called once serving begins; ``progress`` with the bytes of the directory read so far and in all.
    Raises BindError, StoreError if nothing can be served, and ChangesetRejectedError if the directory can't be served
    at the start and the store does not have what it had before.
    """
    _prepare_process(settings)
    ending = _ending_signals()
    reloading = Reloading()
    async with AsyncExitStack() as last, AsyncExitStack() as stack:
        control_plane = App(settings, workers=len(os.sched_getaffinity(0)), checked=True, keeps_files=True)
        control_plane.measured.asks_for_credentials = lambda: settings.asks_for_credentials
        last.push_async_callback(_record_before_api, control_plane, reloading.records)
        stack.push_async_callback(control_plane.stop)
        control_plane.launch()
        store = await _unless_ended(_open_store(control_plane), ending)
        if store is None:
            return _ended_early()
        publisher = await _publisher(store, control_plane, reloading.refused, stack, ending)
        if publisher is None:
            return _ended_early()
        await publisher.start()
        reader, content = None, None
        if settings.directory is not None:
            control_plane.directory = DirectoryStatus(settings.directory)
            reader = _reader(settings, settings.directory, progress)
            content = await _unless_ended(_read(reader), ending)
            if content is None:
                return _ended_early()
        due = await _unless_ended(_publish_first(control_plane, publisher, content, reloading), ending)
        if ending.is_set():
            return _ended_early()
        _follow_store(control_plane, publisher, store)
        settle_memory()
        if settings.api.rest:
            control_plane.serve_api(not_loaded_yet)
        answers = fleet_answers(control_plane, etcd_options(settings.store), lambda: store.epoch)
        traces = _traces(control_plane, answers, stack)
        rest, api, admission = await _started(control_plane, publisher, answers, traces, reloading.records, last)
        await _unless_ended(admission.start(control_plane.background), ending)
        if ending.is_set():
            return await _ended_unready(control_plane)
        await _start_push_api(control_plane, rest, api, stack)
        await stack.enter_async_context(answers.serving(control_plane, api.address))
        await stack.enter_async_context(_retention(store, control_plane))
        if ending.is_set():
            return await _ended_unready(control_plane)
        _tell_ready(control_plane, api, store, announce)
        reloading.begin(control_plane, api, admission, store, follows_directory=reader is not None)
        await _until_ended(control_plane, publisher, reader, ending, reloading, due)
    log.info("stopped")
    return 0


def _ended_early() -> int:
    """Return the exit code of a process that is to end before it serves."""
    log.info("stopped before anything was served")
    return 0


async def _started(
    control_plane: App,
    publisher: Publisher,
    answers: FleetAnswers,
    traces: "Traces | None",
    records: "_DirectoryRecords",
    last: AsyncExitStack,
) -> "tuple[Any, GrpcApi, Admission]":
    """Start the control plane, and load the push API: see ``_push_api``. From then on, directory changes are recorded.

    The push API takes a while to load; meanwhile the workers start on another core.
    """
    loading = asyncio.to_thread(_push_api, control_plane, publisher, answers, traces)
    started, loaded = await asyncio.gather(control_plane.start(ready=False), loading, return_exceptions=True)
    if isinstance(loaded, BaseException):
        raise started if isinstance(started, BaseException) else loaded
    rest, api, admission = loaded
    last.push_async_callback(admission.finish)  # once no port answers and no change is under way any more
    records.begin(admission)
    if isinstance(started, BaseException):
        raise started
    return rest, api, admission


async def _ended_unready(control_plane: App) -> int:
    """Drain the xDS port, which answers already, and return the exit code of a process that is to end by then."""
    await _drain(control_plane)
    log.info("stopped before it was ready")
    return 0


async def _drain(control_plane: App) -> None:
    _tell_systemd("STOPPING=1")
    log.info("draining", streams=control_plane.stream_count, window_s=control_plane.settings.drain.timeout_s)
    await _until_second_signal(control_plane.drain())


async def _record_before_api(control_plane: App, records: "_DirectoryRecords") -> None:
    """Record what the directory changed in a start that ended before there was an audit log. Raises AccessFileError."""
    if not records.waits:
        return
    admission = await asyncio.to_thread(_admission, control_plane)
    records.begin(admission)
    await admission.finish()


def _follow_store(control_plane: App, publisher: Publisher, store: SealedStore) -> None:
    """Have the control plane say how the store stands, and calls leave the event loop to changes."""
    control_plane.epoch = lambda: store.epoch
    control_plane.stale_because = lambda: publisher.stale_because or store.away
    control_plane.refusing_because = lambda: store.refusing
    control_plane.plain_because = lambda: store.plain_values
    give_way_while(lambda: publisher.is_busy)


async def _start_push_api(control_plane: App, rest: Any, api: "GrpcApi", stack: AsyncExitStack) -> None:
    """Serve the push API; the stack stops it."""
    if rest is not None:
        control_plane.serve_api(rest, has_page=control_plane.settings.api.page)
    await api.start(control_plane.room.api)
    stack.push_async_callback(api.stop)


def _prepare_process(settings: Settings) -> None:
    """Set up memory and core dumps, for this process and for those that it starts; and the turns of its threads."""
    if not settings.core_dumps:
        forbid_core_dumps()
    return_large_blocks()
    hold_collection()
    sys.setswitchinterval(SWITCH_S)


def _tell_ready(
    control_plane: App, api: "GrpcApi", store: SealedStore, announce: Callable[[ServingInfo], None] | None
) -> None:
    """Report the server as ready, to whoever waits for it, and warn of ports that are open to others."""
    settings = control_plane.settings
    control_plane.set_ready()
    _tell_systemd("READY=1")
    if announce is not None:
        announce(control_plane.info(settings.directory, api=api.address))
    if not settings.clients_are_known and not settings.listen.is_loopback:
        log_open_xds(str(settings.listen))
    if why := control_plane.unguarded_secrets:
        log.warning("secrets of several groups", problem=why, hint="match identities in rules (docs/directory.md)")
    if store.plain_values:
        log_plain_values(store.plain_count)
    if settings.open_api:
        log_open_api([str(address) for address in settings.open_api.values()])


def _tell_systemd(state: str) -> None:
    if problem := notify(state):
        log.warning("systemd could not be told of the server's state", state=state, problem=problem)


class Reloading:
    """Handles SIGHUP: reloads the watched files, whether they have changed or not, and logs it.

    A SIGHUP before ``begin`` is handled then.
    """

    def __init__(self) -> None:
        self.directory = Rereading(self._on_directory_read)
        self.refused = _RefusedChange()
        self.records = _DirectoryRecords()
        self._is_asked = False
        self._work: Callable[[], None] = self._ask
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_signal)

    def _on_signal(self) -> None:
        self._work()

    def _ask(self) -> None:
        self._is_asked = True

    def begin(
        self, control_plane: App, api: "GrpcApi", admission: "Admission", store: SealedStore, *, follows_directory: bool
    ) -> None:
        """Reload at once from now on, and now if SIGHUP has arrived already."""

        def work() -> None:
            log.info("reloading, as SIGHUP asks")
            control_plane.reload_certificates()
            if api.reload_certificates():
                log_certificates("push API")
            if admission.reload():
                log.info("tokens and identities read again")
            if store.has_keys:
                control_plane.background.run("read the store's keys", _read_keys(store))
            if follows_directory:
                self.directory.ask()

        self._work = work
        if self._is_asked:
            work()

    def _on_directory_read(self, is_news: bool, problems: tuple[Problem, ...]) -> None:
        log.info("directory read again", changed=is_news, problems=len(problems))
        if not is_news:
            self.refused.retry_aloud()


async def _read_keys(store: SealedStore) -> None:
    try:
        is_other = await store.read_keys()
    except KeysError as error:
        log.error("the keys of the store can't be read again; those read before stay in use", problem=str(error))
    else:
        log.info("the keys of the store were read again", key=store.key_ids[0], is_other=is_other)


def _traces(control_plane: App, answers: FleetAnswers, stack: AsyncExitStack) -> "Traces | None":
    """Return the traces of the push API's calls, None if they are off. Raises TracesMissingError."""
    if control_plane.settings.telemetry.traces == "off":
        return None
    try:
        from xds.telemetry.traces import open_traces
    except ImportError as error:
        what = "traces need OpenTelemetry; install it with: pip install 'xds-control-plane[otel]'"
        raise TracesMissingError(what) from error
    traces = open_traces(
        answers.debts,
        control_plane.background,
        store=control_plane.settings.store.url.partition(":")[0] or "sqlite",
        instance=f"{control_plane.settings.replicas.own_name}:{os.getpid()}",
        version=__version__,
    )
    stack.push_async_callback(traces.stop)
    return traces


def _push_api(
    control_plane: App, publisher: Publisher, answers: FleetAnswers, tracing: "Traces | None"
) -> "tuple[Any, GrpcApi, Admission]":
    """Import and create the push API: REST as an ASGI app, None if it is off, then gRPC and its admission."""
    from xds.api.grpc_api import GrpcApi
    from xds.api.intake import Intake
    from xds.api.operations import Operations

    settings, admin = control_plane.settings.api, control_plane.settings.admin
    operations = Operations(
        publisher,
        control_plane.catalog,
        known=control_plane.known,
        nodes=answers.nodes,
        debts=answers.debts,
        status=answers.status,
        inspect=answers.inspect,
        holders=answers.holders,
        rebalance=control_plane.rebalance,
        on_rejected=control_plane.note_rejected,
        notices=control_plane.notices(),
    )
    admission = _measured(_admission(control_plane))
    intake_bytes_max = max(settings.intake_bytes_max, settings.body_bytes_max)
    intake = Intake(intake_bytes_max, on_empty=return_holes, hits=control_plane.hits)
    api = GrpcApi(
        settings.listen,
        operations,
        admission,
        tls=settings.tls,
        client_ca=settings.tls_client_ca,
        body_bytes_max=settings.body_bytes_max,
        body_timeout_s=settings.body_timeout_s,
        intake=intake,
        limits=_grpc_limits(control_plane.settings),
        on_tls_problem=log_tls_problem,
        answer_replica=answers.answering,
        tracing=tracing,
    )
    if not settings.rest:
        return None, api, admission
    from xds.api.guard import Hosts
    from xds.api.rest import rest_api

    hosts = Hosts(settings.hosts if admin is None else (*settings.hosts, admin.host))
    rest = rest_api(
        operations,
        admission,
        body_bytes_max=settings.body_bytes_max,
        body_timeout_s=settings.body_timeout_s,
        intake=intake,
        hosts=hosts,
        tracing=tracing,
    )
    if not settings.page:
        return rest, api, admission
    from xds.page.app import WithPage, page_app

    return WithPage(rest, page_app(operations, admission, hosts=hosts, forms=_forms(control_plane))), api, admission


def _forms(control_plane: App) -> "Forms":
    from xds.api.admin import requests_max
    from xds.page.forms import Forms

    settings = control_plane.settings
    sign_ins_max = min(settings.api.sign_ins_max, max(1, requests_max(settings.connections.admin_max) // 4))
    return Forms(settings.api.message_timeout_s, sign_ins_max, control_plane.hits.add)


def _grpc_limits(settings: Settings) -> "GrpcLimits":
    from xds.api.grpc_api import GrpcLimits

    return GrpcLimits(
        handshake_s=settings.connections.headers_timeout_s,
        idle_s=settings.connections.idle_timeout_s,
        keepalive_interval_s=settings.transport.keepalive_interval_s,
        keepalive_timeout_s=settings.transport.keepalive_timeout_s,
        push_streams_max=settings.api.push_streams_max,
        connection_streams_max=settings.api.connection_streams_max,
        message_timeout_s=settings.api.message_timeout_s,
    )


def _admission(control_plane: App) -> "Admission":
    """Return who decides about callers. Raises AccessFileError."""
    from xds.access.audit import AuditLog
    from xds.access.authenticator import Authenticator
    from xds.access.certificates import CertificateNames
    from xds.api.admission import Admission
    from xds.api.watches import Watches

    settings, measured = control_plane.settings, control_plane.measured
    watches = Watches(settings.api.watches_max, control_plane.hits)
    access, files = settings.access, api_tls_files(settings)
    authenticator = Authenticator(
        settings.api.token_file,
        tokens_file=settings.tokens_path,
        identities_file=access.identities_file,
        is_needed=settings.asks_for_credentials,
        names_of=CertificateNames(files, log_tls_problem) if files is not None and files.is_mutual else None,
    )
    records_all = access.audit_file is not None
    if not access.audit:
        return Admission(authenticator, measured=measured, watches=watches)
    audit = AuditLog(settings.audit_path, bytes_max=access.audit_bytes_max, files_max=access.audit_files_max)
    if records_all or authenticator.is_needed:
        audit.open()
    return Admission(authenticator, audit, records_all=records_all, measured=measured, watches=watches)


def _measured(admission: "Admission") -> "Admission":
    """Return an admission, of which metrics and ``/readyz`` tell."""
    admission.measured.access_problem = lambda: admission.problem
    admission.measured.asks_for_credentials = lambda: admission.asks_for_credentials
    return admission


async def _judge(settings: Settings, stack: AsyncExitStack) -> "Judge | None":
    """Return the Envoy that judges resources, tried once; the stack closes it, also while it is tried.

    Raises EnvoyMissingError and EnvoyUnusableError.
    """
    validation = settings.validation
    if validation.envoy == "off" and not validation.attributes_nacks:
        return None

    def load() -> "Judge":
        from xds.validation.judge import Judge

        return Judge(validation.envoy_path, timeout_s=validation.envoy_timeout_s)

    judge = await asyncio.to_thread(load)
    stack.callback(judge.close)
    await asyncio.to_thread(judge.check)
    return judge


def _gate(judge: "Judge | None", settings: Settings) -> "EnvoyGate | None":
    """Return the Envoy that judges changes."""
    if judge is None or settings.validation.envoy == "off":
        return None
    from xds.validation.gate import EnvoyGate

    return EnvoyGate(judge, refuses=settings.validation.envoy == "refuse")


def _nack_judge(judge: "Judge | None", control_plane: App) -> "NackJudge | None":
    """Return the Envoy that is asked which resources are to blame for NACKs."""
    if judge is None or not control_plane.settings.validation.attributes_nacks:
        return None
    from xds.validation.gate import NackJudge

    def snapshot_of(group: str) -> Snapshot | None:
        return control_plane.catalog.snapshots.get(group)  # the mapping is another one after a change of groups

    return NackJudge(judge, snapshot_of)


async def _publisher(
    store: Store, control_plane: App, refused: "_RefusedChange", stack: AsyncExitStack, ending: asyncio.Event
) -> Publisher | None:
    """Return the publisher, or None, with the store closed, if the process is to end while its judge is tried.

    The stack stops it: that answers those that wait for the judge, before it is closed.
    """
    judge = await _unless_ended(_judge(control_plane.settings, stack), ending)
    if ending.is_set():
        await store.close()
        return None
    control_plane.attributions.ask = _nack_judge(judge, control_plane)

    def serve(changeset: Changeset, revision: int) -> None:
        control_plane.follow(changeset, revision)
        refused.retry()

    publisher = Publisher(
        store,
        control_plane.catalog,
        serve,
        log_entry,
        background=control_plane.background,
        resource_bytes_max=control_plane.settings.protocol.resource_bytes_max,
        pending_max=control_plane.settings.api.pending_max,
        gate=_gate(judge, control_plane.settings),
        refuses_because=control_plane.refuses_changes_because,
        on_limit=control_plane.hits.add,
        lacking=control_plane.lacking,
        on_answered=control_plane.measured.push.observe,
        on_stored=control_plane.measured.store.observe,
    )
    control_plane.measured.queue = lambda: publisher.waiting
    stack.push_async_callback(publisher.stop)
    return publisher


async def _open_store(control_plane: App) -> SealedStore:
    store = control_plane.settings.store
    return await open_store(
        store.url,
        etcd=etcd_options(store),
        etcd_wait_s=store.etcd_wait_s,
        background=control_plane.background,
        keys=store.keys,
    )


def _retention(store: SealedStore, control_plane: App) -> Retention:
    kept = control_plane.settings.store
    return Retention(
        store,
        most=kept.history_max,
        longest_s=kept.history_s,
        bytes_max=kept.history_bytes_max,
        background=control_plane.background,
    )


def etcd_options(store: StoreSettings) -> EtcdOptions | None:
    """Return how to connect to etcd, apart from the endpoints; None for another store. Raises OSError."""
    if not store.url.startswith("etcd:"):
        return None
    password = "" if store.etcd_password_file is None else store.etcd_password_file.read_text().strip()
    return EtcdOptions(
        endpoints=(),
        ca=store.etcd_ca,
        cert=store.etcd_cert,
        key=store.etcd_key,
        user=store.etcd_user,
        password=password,
    )


async def _until_ended(
    control_plane: App,
    publisher: Publisher,
    reader: DirectoryReader | None,
    ending: asyncio.Event,
    reloading: Reloading,
    due: Change | None,
) -> None:
    """Publish the due change, follow the directory until the process is to end, then drain."""
    stop = asyncio.Event()
    HoleWatch().start(asyncio.get_running_loop())
    following: asyncio.Task[None] | None = None
    if reader is not None:
        directory = _FollowedDirectory(control_plane, publisher, reader, stop, reloading, due)
        following = control_plane.background.keep("follow the directory", directory.follow, may_end=stop.is_set)
    elif due is not None:
        following = control_plane.background.run(
            "leave the directory", _publish_with_retries(control_plane, publisher, due, reloading.records)
        )
    await ending.wait()
    await _drain(control_plane)
    stop.set()
    if following is not None:
        following.cancel()  # it may be retrying a change on a store that is unavailable
        await asyncio.gather(following, return_exceptions=True)


async def _unless_ended(reading: Coroutine[Any, Any, T], ending: asyncio.Event) -> T | None:
    """Return the result, or None as soon as the process is to end; a reading thread is then left running."""
    read, ended = asyncio.create_task(reading), asyncio.create_task(ending.wait())
    await asyncio.wait((read, ended), return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()
    if read.done():
        return await read
    read.cancel()
    await asyncio.wait((read,))
    return None


def _ending_signals() -> asyncio.Event:
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    return ending


async def _until_second_signal(draining: Awaitable[None]) -> None:
    """Wait for the end of draining, or for a second signal, which ends it at once."""
    again = _ending_signals()
    tasks = (asyncio.ensure_future(draining), asyncio.create_task(again.wait()))
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _RefusedChange:
    """The directory's change, if it was refused beside what others pushed: files without problems of their own.

    Whenever what is served has changed, it is due for another try, which says nothing if its problems are as before.
    """

    def __init__(self) -> None:
        self.change: Change | None = None
        self._is_due = asyncio.Event()
        self._is_aloud = False

    def retry(self) -> None:
        """Make another try due."""
        if self.change is not None:
            self._is_due.set()

    def retry_aloud(self) -> None:
        """Make another try due that logs its problems in any case."""
        self._is_aloud = True
        self.retry()

    async def wait_due(self) -> bool:
        """Return once another try is due: whether it is to log its problems in any case."""
        await self._is_due.wait()
        self._is_due.clear()
        is_aloud, self._is_aloud = self._is_aloud, False
        return is_aloud


class _DirectoryRecords:
    """Records the directory's changes in the audit log. What comes before there is one is recorded then."""

    def __init__(self) -> None:
        self._admission: Admission | None = None
        self._before: list[tuple[str, dict[str, Any]]] = []

    @property
    def waits(self) -> bool:
        """Whether there is something to record once there is an audit log."""
        return bool(self._before)

    def begin(self, admission: "Admission") -> None:
        """Record from now on, and what has come before."""
        self._admission = admission
        for outcome, fields in self._before:
            admission.record_directory(outcome, **fields)
        self._before.clear()

    def done(self, change: Change, published: Published) -> None:
        """Record a change that was made; one that changes nothing is none."""
        if published.changed or published.rules_changed:
            groups = {key.group for key in published.changed}
            about = {"revision": published.revision, "changed": len(published.changed)}
            self._record(DONE, groups=groups, rules=published.rules_changed or None, detail=change.message, **about)

    def rejected(self, error: ChangesetRejectedError) -> None:
        """Record that the directory's content is rejected."""
        self._record(REJECTED, groups={each.group for each in error.problems if each.group}, detail=str(error))

    def _record(self, outcome: str, **fields: Any) -> None:
        if self._admission is None:
            self._before.append((outcome, fields))
        else:
            self._admission.record_directory(outcome, **fields)


class _FollowedDirectory:
    """Publishes every change of the directory until ``stop`` is set. After any error, what is served stays served."""

    def __init__(
        self,
        control_plane: App,
        publisher: Publisher,
        reader: DirectoryReader,
        stop: asyncio.Event,
        reloading: Reloading,
        due: Change | None = None,
    ) -> None:
        self._control_plane, self._publisher = control_plane, publisher
        self._reader, self._stop, self._rereading = reader, stop, reloading.directory
        self._refused, self._records = reloading.refused, reloading.records
        self._publishing = asyncio.Lock()
        self._unpublished: Change | ChangesetRejectedError | None = due

    async def follow(self) -> None:
        """Follow the directory, beginning with a change that was read and not published: it is not reported again."""
        async with asyncio.TaskGroup() as group:
            retrying = group.create_task(self._retry_refused())
            await self._publish_changes()
            retrying.cancel()

    async def _retry_refused(self) -> None:
        now_s = asyncio.get_running_loop().time
        while True:
            is_aloud = await self._refused.wait_due()
            begun_s = now_s()
            async with self._publishing:
                if self._refused.change is not None:
                    await self._publish_or_log(self._refused.change, logs_same_problems=is_aloud)
            await asyncio.sleep(max(REFUSED_RETRY_S, REFUSED_RETRY_SHARE * (now_s() - begun_s)))

    async def _publish_changes(self) -> None:
        pause_s = WATCH_RETRY_MIN_S
        while not self._stop.is_set():
            try:
                await self._publish_pending()
                async for outcome in watch(
                    self._reader, stop=self._stop, on_degraded=log_degraded, rereading=self._rereading
                ):
                    self._note_unwatched("")
                    self._unpublished = (
                        outcome
                        if isinstance(outcome, ChangesetRejectedError)
                        else change_of_directory(outcome, self._reader.root)
                    )
                    await self._publish_pending()
                    pause_s = WATCH_RETRY_MIN_S
            except Exception as error:
                log.error("the directory can't be watched, trying again", error=repr(error), retry_s=pause_s)
                self._note_unwatched(repr(error))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), pause_s)
                pause_s = min(2 * pause_s, WATCH_RETRY_MAX_S)

    def _note_unwatched(self, why: str) -> None:
        if self._control_plane.directory is not None:
            self._control_plane.directory.unwatched_because = why

    async def _publish_pending(self) -> None:
        async with self._publishing:
            if self._unpublished is not None:
                await self._publish_or_log(self._unpublished)
                self._unpublished = None

    async def _publish_or_log(
        self, outcome: Change | ChangesetRejectedError, *, logs_same_problems: bool = True
    ) -> None:
        try:
            if isinstance(outcome, ChangesetRejectedError):
                raise outcome
            await _publish_with_retries(self._control_plane, self._publisher, outcome, self._records)
            self._refused.change = None
        except ChangesetRejectedError as error:
            self._refused.change = outcome if isinstance(outcome, Change) else None
            if logs_same_problems or self._control_plane.directory_problems != error.problems:
                self._control_plane.note_directory_rejected(error.problems)
                self._records.rejected(error)
                log_rejected(error.problems)


def _reader(settings: Settings, directory: Path, progress: Callable[[int, int], None] | None) -> DirectoryReader:
    tree = TreeLimits(links_outside=settings.links_outside)
    limits = DirectoryLimits(tree=tree, file=YamlLimits(strict=settings.strict_yaml))
    return DirectoryReader(directory, limits=limits, progress=progress)


async def _read(reader: DirectoryReader) -> Change | ChangesetRejectedError:
    try:
        return change_of_directory(await asyncio.to_thread(reader.read), reader.root)
    except ChangesetRejectedError as error:
        return error


async def _publish_with_retries(
    control_plane: App, publisher: Publisher, change: Change, records: _DirectoryRecords
) -> None:
    """Publish a change, retrying until the store accepts it."""
    pause_s = WATCH_RETRY_MIN_S
    while True:
        try:
            await _publish(control_plane, publisher, change, records)
            return
        except StoreError as error:
            log.error("the directory's change can't be kept, trying again", problem=str(error), retry_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, WATCH_RETRY_MAX_S)


async def _publish_first(
    control_plane: App,
    publisher: Publisher,
    content: Change | ChangesetRejectedError | None,
    reloading: Reloading,
) -> Change | None:
    """Publish the directory's content at a start, or its absence. Return the change if it has to be retried later.

    That is if the store is unavailable and has content from before, which is served meanwhile. Content that is rejected
    ends the start only if the store does not have what this directory had before: else that is served, as it would be
    without the restart. Raises ChangesetRejectedError and StoreError.
    """
    if content is None:
        if not control_plane.catalog.table.kept:
            return None
        content = no_directory()
    try:
        if isinstance(content, ChangesetRejectedError):
            raise content
        await _publish(control_plane, publisher, content, reloading.records)
    except (UnavailableError, OutcomeUnknownError) as error:
        if not publisher.revision:
            raise
        log.error("the directory's change can't be kept, what was served last is served", problem=str(error))
        assert isinstance(content, Change)
        return content
    except ChangesetRejectedError as error:
        directory, table = control_plane.directory, control_plane.catalog.table
        if directory is None or not table.kept or not await is_newest_of(publisher.store, directory.root):
            raise
        reloading.refused.change = content if isinstance(content, Change) else None
        control_plane.note_directory_rejected(error.problems)
        reloading.records.rejected(error)
        log_rejected(error.problems, at_start=True)
    return None


async def _publish(control_plane: App, publisher: Publisher, change: Change, records: _DirectoryRecords) -> None:
    await publisher.publish(change, on_made=lambda published: records.done(change, published))
    if control_plane.directory is not None:
        control_plane.directory.note_applied()
