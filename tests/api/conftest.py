from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from support.fleet_status import server_status

from xds.api.fleet import ServerStatus
from xds.api.operations import Operations
from xds.model.catalog import Catalog
from xds.protocol.convergence import Debt, Debts
from xds.protocol.holders import Holders, HoldersQuery
from xds.protocol.inspection import InspectedClient, Inspection, InspectQuery, NackSeen
from xds.protocol.status import NodesFound, NodesQuery, NodeSummary
from xds.publishing.publisher import Publisher
from xds.registry.known_nodes import KnownNodes
from xds.schema.notices import Notices
from xds.store.entries import Store
from xds.store.memory import MemoryStore


class Served:
    """Operations on a store in memory, the resources they serve, and the nodes that they report."""

    def __init__(self, store: Store, notices: Notices | None = None) -> None:
        self.store = store
        self.catalog = Catalog()
        self.publisher = Publisher(store, self.catalog, self._serve)
        self.known_nodes: list[NodeSummary] = []
        self.clients: list[InspectedClient] = []
        self.rejected = 0
        self.problems: tuple[str, ...] = ()
        self.nodes_fail: Exception | None = None
        self.moved: list[tuple[float, float]] = []
        """The share, and the time, of each ``rebalance``."""
        self.debts: dict[str, dict[Debt, int]] = {}
        """What the nodes owe, by group."""
        self.gone: dict[str, int] = {}
        """How many known nodes are gone, by group."""
        self.nacks: dict[str, tuple[NackSeen, ...]] = {}
        """What nodes rejected, by id."""
        self.known = KnownNodes()
        self.operations = Operations(
            self.publisher,
            self.catalog,
            nodes=self._nodes,
            debts=self._debts,
            status=self._status,
            inspect=self._inspect,
            holders=self._holders,
            rebalance=self._rebalance,
            on_rejected=self._count,
            notices=notices,
            known=self.known,
        )

    def _serve(self, changeset: Any, revision: int) -> None:
        self.catalog.apply(changeset, revision=revision)

    async def _nodes(self, query: NodesQuery) -> NodesFound:
        if self.nodes_fail is not None:
            raise self.nodes_fail
        found = [
            each
            for each in self.known_nodes
            if query.id in (None, each.node.id)
            and query.group in (None, each.group)
            and query.state in (None, each.state)
        ]
        return NodesFound(nodes=tuple(found[: query.limit]), problems=self.problems)

    async def _debts(self) -> Debts:
        return Debts(revision=self.catalog.revision, by_group=self.debts, gone=self.gone)

    async def _inspect(self, query: InspectQuery) -> Inspection:
        clients = tuple(each for each in self.clients if each.summary.node.id == query.id)
        return Inspection(clients=clients, nacks=self.nacks.get(query.id, ()))

    async def _holders(self, _: HoldersQuery) -> Holders:
        return Holders()

    async def _status(self) -> ServerStatus:
        return server_status(self.catalog.revision, **({"gone": self.gone} if self.gone else {}))

    async def _rebalance(self, share: float, over_s: float) -> int:
        self.moved.append((share, over_s))
        return round(share * 100)

    def _count(self) -> None:
        self.rejected += 1


@pytest.fixture
async def serving_api() -> AsyncIterator[Callable[..., Awaitable[Served]]]:
    """Start operations on a store, by default an empty one in memory, with what they warn of."""
    async with AsyncExitStack() as stack:

        async def start(store: Store | None = None, notices: Notices | None = None) -> Served:
            made = Served(store or MemoryStore(), notices)
            await made.publisher.start()
            stack.push_async_callback(made.publisher.stop)
            return made

        yield start
