"""A push API on a real port, with its catalog and publisher."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.fleet_status import server_status

from xds.access.authenticator import Authenticator
from xds.address import Address
from xds.api.admission import Admission
from xds.api.fleet import ServerStatus
from xds.api.grpc_api import GrpcApi
from xds.api.operations import Operations
from xds.client import Client
from xds.model.catalog import Catalog
from xds.protocol.convergence import Debt, Debts
from xds.protocol.holders import Holders, HoldersQuery
from xds.protocol.inspection import Inspection
from xds.protocol.status import NodesFound
from xds.publishing.publisher import Publisher
from xds.store.entries import Store
from xds.store.memory import MemoryStore


class ApiServer:
    """A running push API, its catalog and its publisher."""

    def __init__(self, api: GrpcApi, catalog: Catalog, publisher: Publisher) -> None:
        self.api = api
        self.catalog = catalog
        self.publisher = publisher

    @property
    def address(self) -> str:
        return str(self.api.address)

    def client(self, **options: Any) -> Client:
        return Client(self.address, **{"patience_s": 0.2} | options)


@pytest.fixture
def api_server() -> Callable[..., AbstractAsyncContextManager[ApiServer]]:
    @asynccontextmanager
    async def serve(
        *, store: Store | None = None, token: Path | None = None, tls: tuple[Path, Path] | None = None, port: int = 0
    ) -> AsyncIterator[ApiServer]:
        catalog = Catalog()
        publisher = Publisher(
            store or MemoryStore(),
            catalog,
            lambda changeset, revision: catalog.apply(changeset, revision=revision) and None,
        )
        await publisher.start()

        async def nodes(query: Any) -> NodesFound:
            return NodesFound(nodes=())

        async def rebalance(share: float, over_s: float) -> int:
            return round(share * over_s)

        async def debts() -> Debts:
            return Debts(revision=catalog.revision, by_group={"default": {Debt(): 3, Debt(owed=1): 1}})

        async def inspect(query: Any) -> Inspection:
            return Inspection()

        async def status() -> ServerStatus:
            return server_status(catalog.revision)

        async def holders(_: HoldersQuery) -> Holders:
            return Holders()

        operations = Operations(
            publisher,
            catalog,
            nodes=nodes,
            debts=debts,
            status=status,
            inspect=inspect,
            holders=holders,
            rebalance=rebalance,
        )
        admission = Admission(Authenticator(token))
        api = GrpcApi(Address("127.0.0.1", port), operations, admission, tls=tls, body_bytes_max=1_000_000)
        await api.start()
        try:
            yield ApiServer(api, catalog, publisher)
        finally:
            await api.stop()
            await publisher.stop()

    return serve
