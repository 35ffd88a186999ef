"""An etcd that is starting, slow to connect to, absent, or silently unreachable."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator

import pytest
from support.etcd import Etcd
from support.freezing_proxy import FreezingProxy
from support.server import XdsServer
from support.silent_listener import SilentListener
from support.slow_link import SlowLink
from support.waiting import wait_until

from xds.store.errors import UnavailableError
from xds.store.etcd import EtcdStore
from xds.store.etcd_client import CONNECT_S, EtcdClient, EtcdOptions

WAITING = "waiting for etcd"


@pytest.fixture
async def absent() -> AsyncIterator[Etcd]:
    """An etcd that has not been started."""
    etcd = Etcd()
    yield etcd
    for member in etcd.members:
        member.kill()


async def wait_logged(caplog: pytest.LogCaptureFixture, message: str) -> None:
    await wait_until(lambda: [record.message for record in caplog.records], lambda said: message in said)


async def test_a_start_waits_for_an_etcd_that_does_not_listen_yet(absent: Etcd, caplog) -> None:
    with caplog.at_level(logging.WARNING, "xds"):
        opening = asyncio.create_task(EtcdStore.open(EtcdOptions(endpoints=absent.endpoints), "x", wait_s=60))
        await wait_logged(caplog, WAITING)
        absent.start()
        store = await asyncio.wait_for(opening, 30)
    assert (store.away, (await store.state()).revision) == ("", 0)
    assert [record.message for record in caplog.records] == [WAITING]
    await store.close()


async def test_a_start_gives_up_a_connection_that_is_accepted_and_never_answered(absent: Etcd) -> None:
    """A member listens before it serves: by default gRPC waits 20 s for the first HTTP/2 frame."""
    async with SilentListener(absent.clients[0]) as listener:
        opening = asyncio.create_task(EtcdStore.open(EtcdOptions(endpoints=absent.endpoints), "x", wait_s=60))
        await listener.wait_accepted(2, timeout_s=3 * CONNECT_S)
        assert not opening.done()
    absent.start()
    store = await asyncio.wait_for(opening, 30)
    assert store.away == ""
    await store.close()


async def test_a_start_gives_up_on_an_etcd_that_stays_away_and_says_how_long_it_waited(absent: Etcd) -> None:
    with pytest.raises(UnavailableError, match=rf"etcd does not answer \({absent.endpoints[0]}: .*for 0\.5 s"):
        await EtcdStore.open(EtcdOptions(endpoints=absent.endpoints), "x", wait_s=0.5)


async def test_a_member_whose_connections_take_long_to_open_is_reached() -> None:
    """If connection attempts time out before TLS and HTTP/2 are established, a member is never reached."""
    async with Etcd() as etcd, SlowLink(etcd.clients[0], 1.5) as link:
        await link.wait_ready()
        client = EtcdClient(EtcdOptions(endpoints=(f"127.0.0.1:{link.port}",)))
        async with asyncio.timeout(20):
            while True:
                try:
                    await client.range(b"x")
                    break
                except UnavailableError:
                    continue
        await client.close()


async def test_a_member_is_reached_again_though_its_connection_fell_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """TCP takes 15 minutes to notice, and with one endpoint there is no other member to switch to."""
    monkeypatch.setattr("xds.store.etcd_client.KEEPALIVE_S", 1.0)
    monkeypatch.setattr("xds.store.etcd_client.KEEPALIVE_TIMEOUT_S", 1.0)
    async with Etcd() as etcd, FreezingProxy(etcd.clients[0]) as proxy:
        store = await EtcdStore.open(EtcdOptions(endpoints=(f"127.0.0.1:{proxy.port}",)), "x")
        assert await store.newest() == 0
        proxy.freeze()
        with pytest.raises(UnavailableError):
            await store.newest()
        await wait_until(store.newest, equals=0, poll_s=0.05, ignoring=UnavailableError)
        await store.close()


async def test_a_server_started_before_its_etcd_serves_once_etcd_is_up(absent: Etcd) -> None:
    async with XdsServer(None, "--store", absent.url()) as server:
        (said,) = await server.wait_event(WAITING)
        assert (said["wait_s"], absent.endpoints[0] in said["problem"]) == (30, True)
        absent.start()
        await server.wait_ready()


async def test_a_server_that_waits_for_its_etcd_ends_on_a_signal(absent: Etcd) -> None:
    async with XdsServer(None, "--store", absent.url(), settings={"store.etcd_wait_s": 3600}) as server:
        await server.wait_event(WAITING)
        server.signal(signal.SIGTERM)
        assert await server.wait_ended() == 0
        assert server.events("stopped before anything was served")


async def test_a_server_whose_etcd_stays_away_ends_with_the_reason(absent: Etcd) -> None:
    async with XdsServer(None, "--store", absent.url(), settings={"store.etcd_wait_s": 1}) as server:
        assert await server.wait_ended(20) != 0
        assert f"etcd does not answer ({absent.endpoints[0]}: " in server.log()
