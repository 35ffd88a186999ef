"""CSDS over a real gRPC channel: the nodes as a tool sees them."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc import aio
from support.resources import CLUSTER, DEMO_CERT, DEMO_KEY, ENDPOINTS, assignment, cluster, keyed_cluster, secret
from support.wire import DeltaClient

from xds.api.csds import SERVICE
from xds.embed import ControlPlane, Settings
from xds.schema.pool import load_schema

SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


@pytest.fixture
async def control_plane() -> AsyncIterator[ControlPlane]:
    serving = ControlPlane(Settings(listen="127.0.0.1:0", admin="off", csds=True))
    serving.apply(upsert=[cluster("a"), assignment("a", 8081), secret("s", DEMO_CERT, DEMO_KEY)])
    async with serving:
        yield serving


async def ask(control_plane: ControlPlane, **request: Any) -> Any:
    schema = load_schema()
    request_class = schema.message_class("envoy.service.status.v3.ClientStatusRequest")
    response_class = schema.message_class("envoy.service.status.v3.ClientStatusResponse")
    async with aio.insecure_channel(str(control_plane.address)) as channel:
        call = channel.unary_unary(
            f"/{SERVICE}/FetchClientStatus",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response_class.FromString,
        )
        return await call(request_class(**request))


def names(config: Any) -> list[tuple[str, str, int]]:
    kinds = config.generic_xds_configs
    return [(kind.type_url, kind.name, kind.client_status) for kind in kinds]


REQUESTED, DOES_NOT_EXIST, ACKED, NACKED = 1, 2, 3, 4  # envoy.admin.v3.ClientResourceStatus


async def test_a_node_is_shown_with_what_it_accepted_rejected_and_misses(control_plane: ControlPlane) -> None:
    async with DeltaClient(control_plane.address.port, node_id="n1") as client:
        await client.subscribe(CLUSTER)
        await client.ack(await client.next())
        await client.subscribe(ENDPOINTS, "a", "b")
        await client.nack(await client.next(), "no good")
        await client.subscribe(SECRET, "s")
        await client.next()
        [config] = (await ask(control_plane)).config

    assert config.node.id == "n1"
    assert names(config) == [
        (CLUSTER, "a", ACKED),
        (ENDPOINTS, "a", NACKED),
        (ENDPOINTS, "b", DOES_NOT_EXIST),
        (SECRET, "s", REQUESTED),
    ]
    by_type = {generic.type_url: generic for generic in config.generic_xds_configs if generic.version_info}
    assert by_type[ENDPOINTS].error_state.details == "no good"
    assert by_type[CLUSTER].xds_config.type_url == CLUSTER
    assert not by_type[SECRET].HasField("xds_config")


async def test_a_key_inside_a_cluster_is_not_shown() -> None:
    serving = ControlPlane(Settings(listen="127.0.0.1:0", admin="off", csds=True))
    serving.apply(upsert=[keyed_cluster("keyed", "hush")])
    async with serving, DeltaClient(serving.address.port, node_id="n1") as client:
        await client.subscribe(CLUSTER)
        await client.next()
        [config] = (await ask(serving)).config
    [generic] = config.generic_xds_configs
    assert (b"hush" in generic.xds_config.value, b"[redacted]" in generic.xds_config.value) == (False, True)


async def test_node_matchers_choose_and_unsupported_ones_are_refused(control_plane: ControlPlane) -> None:
    async with DeltaClient(control_plane.address.port, node_id="web-1") as client:
        await client.subscribe(CLUSTER)
        await client.next()
        for pattern, expected in (
            ({"exact": "web-1"}, 1),
            ({"prefix": "WEB", "ignore_case": True}, 1),
            ({"suffix": "-2"}, 0),
            ({"contains": "eb"}, 1),
            ({}, 1),
        ):
            assert len((await ask(control_plane, node_matchers=[{"node_id": pattern}])).config) == expected, pattern
        with pytest.raises(aio.AioRpcError, match="safe_regex is not supported"):
            await ask(control_plane, node_matchers=[{"node_id": {"safe_regex": {"regex": "(a+)+b"}}}])
        with pytest.raises(aio.AioRpcError) as refused:
            await ask(control_plane, node_matchers=[{"node_metadatas": [{"path": [{"key": "a"}]}]}])
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_csds_is_off_unless_switched_on() -> None:
    async with ControlPlane(Settings(listen="127.0.0.1:0", admin="off")) as serving:
        with pytest.raises(aio.AioRpcError) as refused:
            await ask(serving)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
