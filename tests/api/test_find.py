"""Whether a change was made, asked by its id at a replica that does not know of it yet."""

import asyncio

import pytest
from support import resources as r
from support.etcd import Etcd

from xds.schema.ingest import ingest
from xds.store.entries import Entry, Key
from xds.store.errors import UnavailableError
from xds.store.etcd import EtcdStore
from xds.store.etcd_client import EtcdOptions

A = Key("default", "type.googleapis.com/envoy.config.cluster.v3.Cluster", "a")


async def test_that_a_change_was_not_made_is_said_once_all_is_known_that_the_store_has(
    serving_api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Etcd() as etcd:
        options = EtcdOptions(endpoints=etcd.endpoints)
        other, behind = await EtcdStore.open(options, "x"), await EtcdStore.open(options, "x")
        told, take = asyncio.Event(), behind._take_response

        async def take_late(response: object) -> None:
            await told.wait()
            await take(response)

        monkeypatch.setattr(behind, "_take_response", take_late)
        served = await serving_api(behind)
        await other.append(Entry(id="x", operations={A: ingest(r.static_cluster("a", 1)).encoded}))
        finding = asyncio.create_task(served.operations.find("x"))
        asking = asyncio.create_task(served.operations.find("y"))
        await asyncio.wait([finding, asking], timeout=0.2)
        assert not finding.done()
        assert not asking.done()
        told.set()
        assert (await finding, await asking) == (1, None)
        etcd.members[0].kill()
        assert await served.operations.find("x") == 1
        with pytest.raises(UnavailableError):
            await served.operations.find("y")
        await other.close()
