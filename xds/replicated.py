"""What ``xds serve`` answers of the fleet: of this replica alone, or with the others that share its etcd."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from xds.address import Address
from xds.api.fleet import ReplicaStatus, ServerStatus
from xds.app import App
from xds.protocol.convergence import Debts
from xds.protocol.holders import Holders, HoldersQuery
from xds.protocol.inspection import Inspection, InspectQuery
from xds.protocol.status import NodesFound, NodesQuery
from xds.store.etcd_client import EtcdOptions
from xds.store.opening import etcd_parts

if TYPE_CHECKING:
    from xds.replicas.answering import Answering
    from xds.replicas.fleet import Fleet
    from xds.replicas.replicas import Replicas


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetAnswers:
    """Answers of the fleet, as ``Operations`` wants them. ``answering`` answers other replicas, if there may be any."""

    nodes: Callable[[NodesQuery], Awaitable[NodesFound]]
    inspect: Callable[[InspectQuery], Awaitable[Inspection]]
    holders: Callable[[HoldersQuery], Awaitable[Holders]]
    debts: Callable[[], Awaitable[Debts]]
    status: Callable[[], Awaitable[ServerStatus]]
    answering: "Answering | None" = None
    _replicas: "Replicas | None" = None
    _fleet: "Fleet | None" = None

    @asynccontextmanager
    async def serving(self, control_plane: App, listen: Address | None) -> AsyncIterator[None]:
        """Register this replica, whose push API listens on ``listen``, and follow the others; at the end, tell them."""
        if self._replicas is None or self._fleet is None:
            yield
            return
        try:
            await self._replicas.start(control_plane.background, listen)
            self._fleet.start(control_plane.background)
            yield
        finally:
            await self._fleet.stop()
            await self._replicas.stop()


def fleet_answers(control_plane: App, etcd: EtcdOptions | None, epoch: Callable[[], str]) -> FleetAnswers:
    """Return the answers of one control plane, joined with those of the other replicas if it has an etcd.

    ``etcd``: how to connect to it, apart from the endpoints. ``epoch`` returns the name of the store's log.
    """
    settings = control_plane.settings
    if etcd is None or settings.replicas.advertise == "off":
        return FleetAnswers(
            nodes=control_plane.nodes,
            inspect=control_plane.inspect,
            holders=control_plane.holders,
            debts=control_plane.debts,
            status=control_plane.status,
        )
    from xds.replicas.fleet import Fleet, Standing
    from xds.replicas.replicas import Own, Replicas

    endpoints, prefix = etcd_parts(settings.store.url)
    own = Own(tls=settings.api.tls is not None, epoch=epoch)
    etcd = replace(etcd, endpoints=endpoints)
    replicas = Replicas(settings.replicas, etcd, prefix, own, settings.api.token_file)

    async def standing() -> Standing:
        return Standing(revision=control_plane.catalog.revision, streams=control_plane.stream_count)

    fleet = Fleet(
        replicas,
        control_plane.known,
        epoch=epoch,
        debts=control_plane.debts,
        nodes=control_plane.nodes,
        inspect=control_plane.inspect,
        holders=control_plane.holders,
        standing=standing,
        probe=control_plane.probe_nodes,
    )

    async def status() -> ServerStatus:
        mine = await control_plane.status()
        me = replicas.membership.me
        this = replace(mine.replicas[0], name=me.name, api=me.api)
        return replace(mine, replica=me.name, replicas=(this, *await _others(fleet)))

    return FleetAnswers(
        nodes=fleet.nodes,
        inspect=fleet.inspect,
        holders=fleet.holders,
        debts=fleet.debts,
        status=status,
        answering=replicas.answering,
        _replicas=replicas,
        _fleet=fleet,
    )


async def _others(fleet: "Fleet") -> tuple[ReplicaStatus, ...]:
    from xds.replicas.asking import Missing

    others = []
    for member, found in await fleet.standings():
        about = {"name": member.name, "api": member.api}
        if isinstance(found, Missing):
            others.append(ReplicaStatus(**about, state="silent", revision=0, streams=0, problem=found.reason))
        else:
            others.append(ReplicaStatus(**about, state="ok", revision=found.revision, streams=found.streams))
    return tuple(others)
