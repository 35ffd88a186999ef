"""What an xDS client sees, whatever gRPC it is built on and whichever transport serves it."""

import grpc
from support import resources as r
from support.control_planes import app_of, wait_streams
from support.native_dial import DELTA_ADS, first_request
from support.wire import PER_TYPE, wire

MANY = 2_000


async def test_the_first_answer_has_everything_and_every_change_follows(serving, dial, variant):
    async with serving() as control_plane, dial.client(variant, dial.channel(control_plane)) as client:
        await client.subscribe(r.CLUSTER)
        first = await client.take()
        assert (first.type_url, first.names) == (r.CLUSTER, {"a"})
        await client.subscribe(r.ENDPOINTS, "a")
        assert (await client.take()).names == {"a"}
        before = client.bodies(r.ENDPOINTS)["a"]
        control_plane.apply(upsert=[r.assignment("a", 2)])
        assert (await client.take()).type_url == r.ENDPOINTS
        assert client.bodies(r.ENDPOINTS)["a"] != before
        await client.quiet(0.05)
        assert app_of(control_plane).hub.counters.nacks == 0


async def test_a_removal_is_told(serving, dial, variant):
    two = [r.static_cluster("a", 1), r.static_cluster("b", 1)]
    async with (
        serving(two, protocol={"hold_timeout_s": 0.1}) as control_plane,
        dial.client(variant, dial.channel(control_plane)) as client,
    ):
        await client.subscribe(r.CLUSTER)
        assert (await client.take()).names == {"a", "b"}
        control_plane.apply(remove=[("clusters", "b")])
        told = await client.take()
        assert told.removed == (("b",) if variant == "delta" else ())
        assert client.versions(r.CLUSTER).keys() == {"a"}


async def test_a_rejected_resource_is_sent_again_once_it_is_mended(serving, dial, variant):
    async with (
        serving([r.static_cluster("a", 1)]) as control_plane,
        dial.client(variant, dial.channel(control_plane)) as client,
    ):
        await client.subscribe(r.CLUSTER)
        await client.take()
        control_plane.apply(upsert=[r.static_cluster("a", 1, connect_timeout="2s")])
        await client.nack(await client.next(), "connect_timeout: too long, says the «client»")
        await client.quiet(0.1)
        control_plane.apply(upsert=[r.static_cluster("a", 1, connect_timeout="3s")])
        assert (await client.take()).names == {"a"}
        assert app_of(control_plane).hub.counters.nacks == 1


async def test_a_client_that_comes_back_is_sent_only_what_differs(serving, dial):
    async with serving([r.static_cluster("a", 1), r.static_cluster("b", 1)]) as control_plane:
        channel = dial.channel(control_plane)
        async with dial.delta(channel) as first:
            await first.subscribe(r.CLUSTER)
            assert (await first.take()).names == {"a", "b"}
        await wait_streams(control_plane, 0)
        async with dial.delta(channel) as same:
            await same.subscribe(r.CLUSTER, initial=first.versions(r.CLUSTER))
            await same.quiet(0.1)
            control_plane.apply(upsert=[r.static_cluster("b", 2)])
            assert (await same.take()).names == {"b"}
        await wait_streams(control_plane, 0)
        async with dial.delta(channel) as behind:
            await behind.subscribe(r.CLUSTER, initial=first.versions(r.CLUSTER) | {"gone": "1"})
            answers = [await behind.take()]
            while not answers[-1].removed:  # what is gone goes last
                answers.append(await behind.take())
            assert [answer.names for answer in answers if answer.names] == [{"b"}]
            assert [answer.removed for answer in answers if answer.removed] == [("gone",)]


async def test_two_thousand_clusters_come_whole(serving, dial, variant):
    """More than any client's first window, so that both ends have to keep to flow control."""
    resources = [r.static_cluster(f"cluster-{number}", 1, alt_stat_name="x" * 200) for number in range(MANY)]
    async with serving(resources) as control_plane:
        wanted = {resource["name"] for resource in resources}
        async with dial.client(variant, dial.channel(control_plane)) as client:
            await client.subscribe(r.CLUSTER)
            await client.take_until(lambda: client.versions(r.CLUSTER).keys() == wanted, timeout_s=20.0)
            assert sum(map(len, client.bodies(r.CLUSTER).values())) > 4 * 65_535
            control_plane.apply(upsert=[r.static_cluster("cluster-7", 2)])
            changed = await client.take()
            assert changed.names == ({"cluster-7"} if variant == "delta" else wanted)


async def test_a_stream_that_is_not_read_holds_up_no_other_and_is_whole_when_it_is(serving, dial):
    """On one connection. grpc-java keeps no share of the connection's window back, so it gets two."""
    resources = [r.static_cluster(f"cluster-{number}", 1, alt_stat_name="x" * 200) for number in range(MANY)]
    async with serving(resources) as control_plane:
        channel = dial.channel(control_plane)
        options = {} if dial.name == "grpcio" else {"paused": True}  # grpcio reads only when it is told to
        unread = channel.stream_stream(DELTA_ADS)(**options)
        await unread.write(first_request())
        await wait_streams(control_plane, 1)
        async with dial.delta(dial.channel(control_plane) if dial.name == "java" else channel) as client:
            for port in range(2, 12):
                await client.subscribe(r.CLUSTER, "cluster-0")
                assert (await client.take()).names == {"cluster-0"}
                control_plane.apply(upsert=[r.static_cluster("cluster-0", port)])
                assert (await client.take()).names == {"cluster-0"}
        if dial.name != "grpcio":
            unread.resume()
        names: set[str] = set()
        while len(names) < MANY:
            said = wire.DeltaDiscoveryResponse.FromString(await unread.read())
            names |= {wire.Resource.FromString(each).name for each in said.resources}
            ack = wire.DeltaDiscoveryRequest(type_url=said.type_url, response_nonce=said.nonce)
            await unread.write(ack.SerializeToString())
        unread.cancel()
        await wait_streams(control_plane, 0)


async def test_per_type_streams_share_a_connection(serving, dial, variant):
    resources = [
        r.cluster("a"),
        r.assignment("a", 1),
        r.listener("a", 2, "a"),
        r.route("a", "a"),
        r.runtime("a", {"x": 1}),
        {"@type": r.SECRET, "name": "a", "generic_secret": {"secret": {"inline_string": "s"}}},
    ]
    async with serving(resources) as control_plane:
        channel = dial.channel(control_plane)
        open_clients = []
        for name in ("CDS", "EDS", "LDS", "RDS", "RTDS", "SDS"):
            service = PER_TYPE[name]
            client = await dial.client(variant, channel, service=service).open()
            open_clients.append(client)
            assert service.type_url is not None
            await client.subscribe(service.type_url, "a")
            answer = await client.take()
            assert (answer.type_url, answer.names) == (service.type_url, {"a"})
        await wait_streams(control_plane, 6)
        for client in open_clients:
            await client.close()
        await wait_streams(control_plane, 0)


async def test_what_a_client_has_said_wrong_reaches_it_letter_by_letter(serving, dial):
    """grpc-message is percent-encoded UTF-8 (gRPC over HTTP/2, Responses)."""
    node = "nœud 100% «é»\t\n~"
    async with serving() as control_plane, dial.delta(dial.channel(control_plane), node_id=node) as client:
        await client.subscribe(r.CLUSTER)
        await client.take()
        await client.send(wire.DeltaDiscoveryRequest(type_url=r.CLUSTER, node=wire.Node(id="n2", cluster="c1")))
        end = await client.ended()
        assert end.code is grpc.StatusCode.INVALID_ARGUMENT
        assert end.details == f"this stream is of node {node!r}, a later request says 'n2'"
        await wait_streams(control_plane, 0)


async def test_a_bad_request_ends_its_own_stream_alone(serving, dial, variant):
    async with serving() as control_plane:
        channel = dial.channel(control_plane)
        async with dial.client(variant, channel) as good, dial.client(variant, channel) as bad:
            await good.subscribe(r.CLUSTER)
            await good.take()
            await bad.subscribe("")  # without a type URL
            assert (await bad.ended()).code is grpc.StatusCode.INVALID_ARGUMENT
            control_plane.apply(upsert=[r.static_cluster("b", 1)])
            assert "b" in (await good.take()).names


async def test_half_close_ends_well_and_cancel_is_noticed(serving, dial, variant):
    async with serving() as control_plane:
        channel = dial.channel(control_plane)
        async with dial.client(variant, channel) as client:
            await client.subscribe(r.CLUSTER)
            await client.take()
            await client.finish()
            assert (await client.ended()).code is grpc.StatusCode.OK
        async with dial.client(variant, channel) as client:
            await client.subscribe(r.CLUSTER)
            await client.take()
        await wait_streams(control_plane, 0)
        assert app_of(control_plane).hub.counters.streams_closed == 2
