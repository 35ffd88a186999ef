"""The control plane: the catalog, the streams that serve it, and the admin port."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from xds import schema_files
from xds.address import Address
from xds.api.admin import AdminServer
from xds.api.fleet import Certificate, ReplicaStatus, ServerStatus, SourceStatus, StoreStatus, WorkersStatus
from xds.api.http_port import HttpLimits
from xds.api.metrics import metrics_renderer
from xds.api.operations import CantMoveError
from xds.config import ServingInfo, Settings, tls_files
from xds.limits import LimitHits, summed
from xds.model.catalog import Catalog
from xds.model.changeset import AppliedChangeset, Changeset
from xds.model.problem import ChangesetRejectedError, Problem
from xds.model.sizes import check_sizes
from xds.model.types import SECRET, short_name
from xds.process.background import Background
from xds.process.descriptors import ConnectionRoom, share_room
from xds.protocol.convergence import Debts
from xds.protocol.holders import Holders, HoldersQuery
from xds.protocol.hub import Hub
from xds.protocol.inspection import Inspection, InspectQuery
from xds.protocol.status import NodesFound, NodesQuery, NodeSummary, joined
from xds.registry.keeping import NodeKeeper
from xds.registry.known_nodes import KnownNodes
from xds.reporting.attributions import Attributions
from xds.reporting.directory_status import DirectoryStatus
from xds.reporting.events import (
    flush_changes,
    log_certificates,
    log_little_room,
    log_rebalance,
    log_tls_failure,
    log_tls_problem,
)
from xds.reporting.nacks import NackLog
from xds.schema.notices import Notices
from xds.schema.origin import built_with
from xds.schema.pool import load_schema
from xds.serving.gone_nodes import gone_page
from xds.serving.memory_watch import PressureLog
from xds.serving.streams import Streams
from xds.serving.workers import WorkerStreams
from xds.store.opening import schemas_path
from xds.telemetry.server_measures import ServerMeasures
from xds.transport.admission import Pressure
from xds.transport.tls_failures import LEFT, TlsFailure
from xds.version import __version__

if TYPE_CHECKING:
    from xds.serving.certificate_status import CertificateStatus

ACCESS_PROBLEM = (
    "files of tokens or identities, keys of issuers, or the audit log can't be used (xds status says which)"
)
"""What ``/readyz`` says to anyone: the problems themselves may quote the files."""
BODY_GRACE_S = 2.0
"""Added to the push API's body time-out: it answers a late body itself, the admin port cuts off others after that."""


class App:
    """A control plane with all its parts: what ``xds serve`` and ``xds.embed.ControlPlane`` are built on.

    Use it in one event loop. Methods that are not coroutines do not wait; when they return, their change is being sent
    to the clients.
    """

    def __init__(
        self, settings: Settings, *, workers: int = 0, checked: bool = False, keeps_files: bool = False
    ) -> None:
        """Create a control plane; nothing listens before ``start``.

        ``workers``: the number of worker processes if ``transport.workers`` is left out. ``checked``: the caller has
        checked that no reference dangles. ``keeps_files``: what the files of ``schemas`` have, and the known nodes,
        are kept beside the store. Raises SchemaError, SchemaInUseError or UnknownFieldError.
        """
        self.settings = settings
        self._kept_schemas = schemas_path(settings.store.url) if keeps_files else None
        schema_files.choose(settings.schemas, unknown_types=settings.unknown_types, kept=self._kept_schemas)
        self._schema = load_schema()
        self._schema.hide(settings.redact.fields, settings.redact.headers)
        self.catalog = Catalog(check_references=not checked)
        self.address: Address | None = None
        self.admin_address: Address | None = None
        self._state, self._admin_tls_problem = "starting", ""
        self.stale_because: Callable[[], str] = lambda: ""
        """Returns why newer changes may be missing, "" if none can be."""
        self.refusing_because: Callable[[], str] = lambda: ""
        """Returns why no change can be stored now, "" if changes can be."""
        self.plain_because: Callable[[], str] = lambda: ""
        """Returns why stored resources are not encrypted although there is a key, "" if all are."""
        self.directory: DirectoryStatus | None = None
        """The directory that is followed, if one is. Set it before ``start``."""
        self.background = Background()
        """The background tasks of this process."""
        self.hits = LimitHits()
        """The limits reached at the admin port and by the push API."""
        self.measured = ServerMeasures()
        """What the push API and the publisher measure."""
        self._rejected = 0
        self._admin_failures: Counter[str] = Counter()
        self._certificates: CertificateStatus | None = None
        self._following: asyncio.Task[None] | None = None
        fleet = settings.fleet
        self.known = KnownNodes(
            nodes_max=fleet.nodes_max,
            bytes_max=fleet.nodes_bytes_max,
            forget_after_ms=int(1000 * fleet.forget_after_s),
            began_ms=time.time_ns() // 1_000_000,
            on_full=lambda: self.hits.add("known_nodes"),
        )
        """The nodes that were seen."""
        self.epoch: Callable[[], str] = lambda: ""
        """Returns the epoch of the store's history."""
        nodes_path = settings.nodes_path if keeps_files and fleet.forget_after_s else None
        self._keeper = NodeKeeper(self.known, nodes_path, self._store_epoch)
        count = self.settings.transport.worker_count(auto=workers)
        self.attributions = Attributions(self.background)
        """Which resources are to blame for NACKs that do not name them, once an Envoy can be asked."""
        self._nack_log = NackLog(self.attributions)
        self._streams = self._new_streams(count)
        self._streams.on_memory = PressureLog().note
        self._admin: AdminServer | None = None
        self._api: ASGIApp | None = None
        self._started_at_ms = 0
        self.room = ConnectionRoom(0, 0, 0)
        """The maximum connections of each port, once started."""

    def _new_streams(self, count: int) -> Streams | WorkerStreams:
        log, known = self._nack_log, self.known
        if count:
            background = self.background
            return WorkerStreams(self.settings, self.catalog, count, background=background, known=known, nack_log=log)
        tls = tls_files(self.settings)
        return Streams(self.settings, self._schema, self.catalog, tls=tls, known=known, on_nacks=log.take)

    @property
    def hub(self) -> Hub:
        """The hub of a control plane that serves the streams in its own process (``transport.workers`` 0)."""
        assert isinstance(self._streams, Streams), "worker processes have the streams"
        return self._streams.hub

    @property
    def stream_count(self) -> int:
        """The number of open streams; with worker processes, at most a second old."""
        return self._streams.count

    @property
    def worker_pids(self) -> list[int]:
        """The process ids of the workers, if there are any."""
        return self._streams.pids if isinstance(self._streams, WorkerStreams) else []

    # --- Publishing --------------------------------------------------------------------------------------------

    def apply(self, changeset: Changeset) -> AppliedChangeset:
        """Apply a changeset as a whole, and bring the streams up to date. Raises ChangesetRejectedError."""
        committed_at = time.monotonic()
        try:
            check_sizes(changeset.upserts, self.settings.protocol.resource_bytes_max)
            applied = self.catalog.apply(changeset)
        except ChangesetRejectedError:
            self._rejected += 1
            raise
        if applied.effect is not None:  # also if no node sees the change: workers need every one
            self._streams.publish(applied, committed_at)
        return applied

    def follow(self, changeset: Changeset, revision: int) -> None:
        """Apply a changeset that the store has at a revision, and bring the streams up to date."""
        committed_at = time.monotonic()
        applied = self.catalog.apply(changeset, revision=revision)
        if applied.effect is not None:
            self._streams.publish(applied, committed_at)

    # --- Life ----------------------------------------------------------------------------------------------------

    def launch(self) -> None:
        """Start the worker processes before the resources are there, so that they load meanwhile. Raises BindError.

        Optional: ``start`` does it otherwise. No client can connect before ``start``.
        """
        if isinstance(self._streams, WorkerStreams):
            self._streams.settings = self.settings
            self._streams.launch()

    async def start(self, *, ready: bool = True) -> Address:
        """Listen and serve; return the address that was bound.

        Without ``ready``, ``/readyz`` answers 503 until ``set_ready``, for a caller that is still to start other ports.
        Raises BindError, or WorkerFailedError if a worker process does not start to serve; nothing is left open then.
        """
        settings = self.settings
        assert self.address is None, "started already"
        self._started_at_ms = round(time.time() * 1_000)
        self._share_room()
        await self._keeper.start(self.background)
        self._streams.settings = settings
        try:
            self.address = await self._streams.start()
        except BaseException:
            await self._keeper.stop()
            raise
        if settings.admin is not None:
            self._admin = AdminServer(
                settings.admin,
                healthy=lambda: True,
                ready=self._readiness,
                metrics=metrics_renderer(
                    self._streams,
                    self.catalog,
                    rejected=lambda: self._rejected,
                    limit_hits=lambda: self.limit_hits,
                    stale=lambda: bool(self.stale_because()),
                    refusing=lambda: bool(self.refusing_because()),
                    directory=self.directory,
                    background=self.background,
                    admin_failures=lambda: self._admin_failures,
                    expiries=lambda: () if self._certificates is None else self._certificates.expiries,
                    measured=self.measured,
                ),
                tls=settings.api.tls,
                client_ca=settings.api.tls_client_ca,
                limits=_http_limits(settings, self.room, self.hits),
                background=self.background,
                on_tls_failure=self._note_admin_failure,
            )
            if self._api is not None:
                self._admin.serve_api(self._api)
            try:
                self.admin_address = await self._admin.start()
            except OSError:
                await self._keeper.stop()
                await self._streams.stop()
                self.address = None
                raise
        await self._follow_certificates()
        if ready:
            self.set_ready()
        return self.address

    async def _follow_certificates(self) -> None:
        settings = self.settings
        if settings.tls.mode == "off" and settings.api.tls is None:
            return
        from xds.serving.certificate_status import CertificateStatus  # cryptography takes a few MB

        status = self._certificates = CertificateStatus(settings, on_api_change=self._reload_admin_certificates)
        await status.look()
        self._following = self.background.keep("follow the certificates", status.follow)

    def _note_admin_failure(self, failure: TlsFailure) -> None:
        self._admin_failures[failure.reason] += 1
        if failure.reason != LEFT.reason:  # as health checks do that only connect
            log_tls_failure("admin", failure)

    def set_ready(self) -> None:
        """Report the server as ready from now on: all that it is to serve is served."""
        self._state = "ready"

    def _share_room(self) -> None:
        given = self.settings.connections
        wanted = ConnectionRoom(given.xds_max, given.api_max, given.admin_max)
        if isinstance(self._streams, WorkerStreams):
            self.room = share_room(wanted, workers=self._streams.count_wanted)
        else:
            self.room = share_room(wanted)
            self._streams.connections_max = self.room.xds
        if (self.room.api, self.room.admin) != (wanted.api, wanted.admin):
            log_little_room(asdict(self.room), asdict(wanted))

    def _readiness(self) -> tuple[bool, str]:
        """Return whether new streams are accepted, and the text of ``/readyz``."""
        workers = self._streams.workers
        if self._state == "ready" and not workers.usable:
            return False, f"no worker serves: {workers.problem}"
        if not self.measured.asks_for_credentials():
            told = [why for _, why in self._problems()]
        elif told := list(dict.fromkeys(what for what, _ in self._problems())):
            told[-1] += " (xds status says more)"
        if self.measured.access_problem():
            told.append(ACCESS_PROBLEM)
        return self._state == "ready", f"{self._state}, but {'; '.join(told)}" if told else self._state

    def _problems(self) -> Iterator[tuple[str, str]]:
        """Iterate over what needs the operator's attention although the server serves.

        The first text of each is for anyone: it has no path, no address, and no words of others.
        """
        if self._state == "ready" and (why := self._streams.workers.problem):
            yield why, why
        if why := self.stale_because():
            yield "newer changes may be missing", f"newer changes may be missing: {why}"
        if why := self.refusing_because():
            yield "changes are refused", f"changes are refused: {why}"
        if self.directory is not None and (why := self.directory.why):
            yield self.directory.told_to_anyone, why
        if self._certificates is not None:
            yield from self._certificates.problems()
        if why := self._streams.memory.problem:
            yield why, why
        if why := self._keeper.problem:
            what = "the known nodes can't be kept over a restart"
            yield what, f"{what}: {why}"
        if why := self.background.ailing:
            yield "a task of this server dies again and again", why

    def _all_problems(self) -> Iterator[str]:
        """Iterate over the problems in full, and what deserves a warning although nothing is wrong."""
        for _, why in self._problems():
            yield why
        for why in (self.measured.access_problem(), self.unguarded_secrets, self.plain_because()):
            if why:
                yield why

    @property
    def limit_hits(self) -> dict[str, int]:
        """How often each limit was reached, by its label, in all processes."""
        return summed([self.hits.counts(), self._streams.limit_hits])

    def refuses_changes_because(self) -> str:
        """Return why changes are refused for want of memory, "" if they are not."""
        memory = self._streams.memory
        return memory.problem if memory.pressure >= Pressure.REFUSE else ""

    async def rebalance(self, share: float, over_s: float) -> int:
        """End a share of the xDS connections at random times within ``over_s``, so that their clients connect anew.

        Returns how many will end. Raises CantMoveError on the grpcio transport.
        """
        if self.settings.transport.kind == "grpcio":
            raise CantMoveError
        count = await self._streams.move(share, over_s)
        log_rebalance(count, share, over_s)
        return count

    def serve_api(self, api: ASGIApp, *, has_page: bool = False) -> None:
        """Serve ``api`` on the admin port, at the paths that the port does not serve itself.

        ``has_page``: it serves the page too.
        """
        self._api = api
        if self._admin is not None:
            self._admin.serve_api(api, has_page=has_page)

    def reload_certificates(self) -> None:
        """Reload the TLS files of the xDS port, in every process, and of the admin port; log the result."""
        self._streams.reload_certificates()
        self._admin_tls_problem = ""
        self._reload_admin_certificates()

    def _reload_admin_certificates(self) -> bool:
        """Reload the TLS files of the admin port; return whether that need not be tried again."""
        try:
            if self._admin is not None and self._admin.reload_certificates():
                log_certificates("admin")
        except OSError as error:  # ssl.SSLError is one
            why = f"the admin port's TLS files can't be read again, so the former ones stay in use: {error}"
            if why != self._admin_tls_problem:
                log_tls_problem(why)
            self._admin_tls_problem = why
            return False
        self._admin_tls_problem = ""
        return True

    async def drain(self) -> None:
        """Report the server as not ready, then end the streams one by one over the drain window."""
        drain = self.settings.drain
        self._state = "draining"
        if drain.unready_s:
            await asyncio.sleep(drain.unready_s)
        await self._keeper.stop()  # who leaves from now on was connected, and is to return
        await self._streams.drain(drain.timeout_s)

    async def stop(self) -> None:
        """Close everything. Open streams are cut off; call ``drain`` first to end them gradually."""
        self._state = "stopped"
        self.address = None
        if self._following is not None:
            self._following.cancel()
        await self._keeper.stop()
        await self._streams.stop()
        self._nack_log.flush()
        flush_changes()
        if self._admin is not None:
            await self._admin.stop()

    async def nodes(self, query: NodesQuery) -> NodesFound:
        """Return the progress of the nodes that match a query, from all worker processes, and the server's problems."""
        found = await self._streams.nodes(query)
        if query.known:
            found = joined((found, gone_page(self.known.gone(query.group), query)), query)
        workers = self._streams.workers.problem if found.missing_workers else ""  # said already
        return replace(
            found,
            nodes=tuple(map(self._with_first_seen, self.attributions.attributed(found.nodes))),
            problems=tuple(why for why in self._all_problems() if why != workers),
        )

    def _with_first_seen(self, node: NodeSummary) -> NodeSummary:
        known = None if node.connected_s is None else self.known.node(node.node.id, node.last_seen_ms)
        return node if known is None else replace(node, first_seen_ms=known.first_seen_ms)

    async def inspect(self, query: InspectQuery) -> Inspection:
        """Return the connections of a node in full, from all workers. Raises UnansweredError if none answers."""
        return await self._streams.inspect(query)

    async def holders(self, query: HoldersQuery) -> Holders:
        """Return which clients have which version of a resource. Raises UnansweredError if no worker answers."""
        return await self._streams.holders(query)

    def _store_epoch(self) -> str:
        return self.epoch()

    async def status(self) -> ServerStatus:
        """Return how this server stands."""
        await self._streams.refresh()
        workers, url = self._streams.workers, self.settings.store.url
        this = ReplicaStatus(
            name=self.settings.replicas.own_name,
            api="" if self.settings.api.listen is None else str(self.settings.api.listen),
            state="self",
            revision=self.catalog.revision,
            streams=self._streams.count,
        )
        return ServerStatus(
            version=__version__,
            schema_of=built_with(),
            replica=this.name,
            started_at_ms=self._started_at_ms,
            replicas=(this,),
            workers=WorkersStatus(serving=workers.serving, silent=workers.silent, missing=workers.missing),
            store=StoreStatus(
                kind=url.partition(":")[0] or "sqlite",
                revision=self.catalog.revision,
                stale_because=self.stale_because(),
                refusing_because=self.refusing_because(),
            ),
            directory=None if self.directory is None else _source_status(self.directory),
            limits={label: hits for label, hits in sorted(self.limit_hits.items()) if hits},
            certificates=tuple(
                Certificate(
                    file=each.file,
                    subject=each.subject,
                    kind="crl" if each.is_crl else "certificate",
                    expires_at_ms=round(each.at_s * 1_000),
                )
                for each in (() if self._certificates is None else self._certificates.expiries)
            ),
            problems=tuple(self._all_problems()),
            gone=dict(self.known.gone_by_group),
        )

    async def lacking(self, revision: int) -> tuple[str, ...]:
        """Return once streams that begin are sent a revision, or after a second: the processes that lack it."""
        return await self._streams.lacking(revision)

    def probe_nodes(self, node_ids: Iterable[str]) -> None:
        """Close the connections of nodes that have newer streams elsewhere, unless their clients answer a ping."""
        self._streams.probe_nodes(node_ids)

    async def debts(self) -> Debts:
        """Return what the connected clients owe, from all worker processes. Raises UnansweredError if none answers."""
        return await self._streams.debts()

    @property
    def unguarded_secrets(self) -> str:
        """Say which groups' secrets any client gets that claims to belong to the group, "" if there are none."""
        groups = self.catalog.groups_with(SECRET)
        if len(groups) < 2 or self.catalog.rules_use_identities:
            return ""
        named = f"{', '.join(groups[:5])}{' …' if len(groups) > 5 else ''}"
        return f"{len(groups)} groups have secrets ({named}) and no rule looks at identities: a node gets any it claims"

    def notices(self) -> Notices:
        """Return what is warned of in resources: by the schema, and by those of the older Envoys of ``schemas``."""
        return Notices(self._schema, schema_files.older_schemas(self.settings.schemas, self._kept_schemas))

    def note_rejected(self) -> None:
        """Count a change that was rejected before ``apply``."""
        self._rejected += 1

    @property
    def directory_problems(self) -> tuple[Problem, ...]:
        """The problems for which the followed directory's content is rejected, none if it is served."""
        return self.directory.problems if self.directory is not None else ()

    def note_directory_rejected(self, problems: tuple[Problem, ...]) -> None:
        """Count a change of the followed directory that was rejected, and report the directory as rejected."""
        self.note_rejected()
        if self.directory is not None:
            self.directory.note_rejected(problems)

    def info(self, directory: Path | None = None, *, api: Address | None = None) -> ServingInfo:
        """Return what is served, and at which addresses."""
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
            directory_problem="" if self.directory is None else self.directory.why,
            api_tls=self.settings.api.tls is not None,
            api=api,
            resources=resources,
        )


def _source_status(directory: DirectoryStatus) -> SourceStatus:
    return SourceStatus(
        path=str(directory.root),
        applied_at_ms=round(directory.applied_at_s * 1_000),
        rejected_since_ms=round(directory.rejected_since_s * 1_000),
        problems=len(directory.problems),
        problem=directory.why,
    )


def _http_limits(settings: Settings, room: ConnectionRoom, hits: LimitHits) -> HttpLimits:
    given = settings.connections
    return HttpLimits(
        connections_max=room.admin,
        headers_timeout_s=given.headers_timeout_s,
        body_timeout_s=settings.api.body_timeout_s + BODY_GRACE_S,
        idle_timeout_s=given.idle_timeout_s,
        unread_timeout_s=given.unread_timeout_s,
        hits=hits,
    )
