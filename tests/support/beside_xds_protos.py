"""A program that embeds the control plane where ``grpcio-csds`` and ``xds-protos`` are installed too, or were.

    python beside_xds_protos.py xds,envoy
    python beside_xds_protos.py envoy,xds
    python beside_xds_protos.py xds

It imports those packages in that order, publishes a cluster, serves it, reads it back, and prints the result. With
``envoy``, cluster and client use Envoy's generated classes, and all is in this process; without, it imports every
module of the product, and a worker process serves.
"""

import asyncio
import importlib
import importlib.metadata
import sys
from collections.abc import AsyncIterator
from typing import Any

TYPE = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
ENVOY_MODULES = (
    "envoy.config.cluster.v3.cluster_pb2",
    "envoy.extensions.upstreams.http.v3.http_protocol_options_pb2",
    "envoy.service.discovery.v3.ads_pb2_grpc",
    "envoy.service.discovery.v3.discovery_pb2",
    "envoy.service.status.v3.csds_pb2",
    "envoy.service.status.v3.csds_pb2_grpc",
    "xds.core.v3.cidr_pb2",
    "xds.type.matcher.v3.matcher_pb2",
    "grpc_csds",
)
OWN_MODULES = ("xds.embed", "xds.client")
WEB: dict[str, Any] = {
    "@type": TYPE,
    "name": "web",
    "type": "STRICT_DNS",
    "connect_timeout": "1s",
    "typed_extension_protocol_options": {
        OPTIONS: {
            "@type": f"type.googleapis.com/{OPTIONS}",
            "explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": 100}},
        }
    },
}


def load(packages: list[str]) -> None:
    for package in packages:
        for name in ENVOY_MODULES if package == "envoy" else OWN_MODULES:
            importlib.import_module(name)


NEEDS_EXTRA = "xds/telemetry/traces.py"
"""The module that the extra ``otel`` is for, which is not installed here."""


def load_all_of_ours() -> None:
    """Import every module of the distribution that needs no extra."""
    for path in importlib.metadata.files("xds-control-plane") or ():
        if path.suffix == ".py" and str(path) != NEEDS_EXTRA:
            parts = path.with_suffix("").parts
            importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))


def cluster_message() -> Any:
    """The cluster as a message of Envoy's generated classes, which are in protobuf's default pool."""
    from envoy.config.cluster.v3.cluster_pb2 import Cluster
    from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions

    cluster = Cluster(name="web", type=Cluster.STRICT_DNS)
    cluster.connect_timeout.FromSeconds(1)
    options = HttpProtocolOptions()
    options.explicit_http_config.http2_protocol_options.max_concurrent_streams.value = 100
    cluster.typed_extension_protocol_options[OPTIONS].Pack(options)
    return cluster


def publish(control_plane: Any) -> None:
    """Publish the cluster in both forms, which have one version; and one that violates a rule of Envoy's API."""
    from envoy.config.cluster.v3.cluster_pb2 import Cluster

    from xds.embed import ChangesetRejectedError

    assert control_plane.apply(upsert=[cluster_message()]).revision == 1
    assert control_plane.apply(upsert=[WEB]).revision == 1, "as JSON it is another version"
    wrong = Cluster(name="wrong")
    wrong.connect_timeout.FromSeconds(-1)
    refused: list[str] = []
    try:
        control_plane.apply(upsert=[wrong])
    except ChangesetRejectedError as error:
        refused = [problem.field for problem in error.problems]
    assert refused == ["connect_timeout"]


async def read_with_envoy(address: str) -> str:
    """Request clusters, and this client's status, with Envoy's generated stubs; return the cluster's name."""
    import grpc.aio
    from envoy.config.cluster.v3.cluster_pb2 import Cluster
    from envoy.service.discovery.v3.ads_pb2_grpc import AggregatedDiscoveryServiceStub
    from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest
    from envoy.service.status.v3.csds_pb2 import ClientStatusRequest
    from envoy.service.status.v3.csds_pb2_grpc import ClientStatusDiscoveryServiceStub

    async with grpc.aio.insecure_channel(address) as channel:
        call = AggregatedDiscoveryServiceStub(channel).DeltaAggregatedResources()
        first = DeltaDiscoveryRequest(type_url=TYPE)
        first.node.id = "beside"
        await call.write(first)
        response = await call.read()
        await call.write(DeltaDiscoveryRequest(type_url=TYPE, response_nonce=response.nonce))
        cluster = Cluster()
        (resource,) = response.resources
        assert resource.resource.Unpack(cluster)
        assert cluster == cluster_message()
        status = await ClientStatusDiscoveryServiceStub(channel).FetchClientStatus(ClientStatusRequest())
        assert [each.node.id for each in status.config] == ["beside"]
        call.cancel()
    return str(resource.name)


def serve_their_csds() -> None:
    """Register the service of ``grpcio-csds`` in a gRPC server of the same process."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc
    import grpc_csds

    server = grpc.server(ThreadPoolExecutor(1))
    grpc_csds.add_csds_servicer(server)
    server.add_insecure_port("127.0.0.1:0")
    server.start()
    server.stop(None).wait()


async def read_alone(address: str) -> str:
    """Request clusters with gRPC alone; return the cluster's name."""
    import grpc.aio

    from xds._generated.xds_wire_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource

    request = DeltaDiscoveryRequest(type_url=TYPE)
    request.node.id = "alone"

    async def requests() -> AsyncIterator[Any]:
        yield request
        await asyncio.Event().wait()

    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream(
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
            request_serializer=DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=DeltaDiscoveryResponse.FromString,
        )(requests())
        (encoded,) = (await call.read()).resources
        call.cancel()
    return str(Resource.FromString(encoded).name)


async def main(packages: list[str]) -> None:
    from xds.embed import ControlPlane, Settings

    with_envoy = "envoy" in packages
    workers = 0 if with_envoy else 1
    settings = Settings(listen="127.0.0.1:0", admin="off", csds=True, reflection=True, transport={"workers": workers})
    control_plane = ControlPlane(settings)
    if with_envoy:
        serve_their_csds()
        publish(control_plane)
    else:
        load_all_of_ours()
        control_plane.apply(upsert=[WEB])
    async with asyncio.timeout(20), control_plane:
        address = str(control_plane.address)
        print("read back:", await (read_with_envoy(address) if with_envoy else read_alone(address)))


if __name__ == "__main__":
    wanted = sys.argv[1].split(",")
    load(wanted)
    asyncio.run(main(wanted))
