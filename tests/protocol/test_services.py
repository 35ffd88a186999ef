"""The methods of each service, and that every type of the schema is served (docs/protocol.md#services)."""

import pytest
from support.encoded import CDS, ECDS, EDS, LDS, LEDS, OTHER, RDS, RTDS, SDS, SRDS, TYPES, VHDS, resource
from support.hubs import DELTA, SOTW, World

from xds._generated import xds_wire_pb2 as wire
from xds.protocol.policy import METHODS, SERVICES, Variant
from xds.protocol.requests import describe_node

BOTH = {
    "discovery.v3.AggregatedDiscoveryService": ("AggregatedResources", ""),
    "cluster.v3.ClusterDiscoveryService": ("Clusters", CDS),
    "endpoint.v3.EndpointDiscoveryService": ("Endpoints", EDS),
    "listener.v3.ListenerDiscoveryService": ("Listeners", LDS),
    "route.v3.RouteDiscoveryService": ("Routes", RDS),
    "route.v3.ScopedRoutesDiscoveryService": ("ScopedRoutes", SRDS),
    "secret.v3.SecretDiscoveryService": ("Secrets", SDS),
    "runtime.v3.RuntimeDiscoveryService": ("Runtime", RTDS),
    "extension.v3.ExtensionConfigDiscoveryService": ("ExtensionConfigs", ECDS),
}
DELTA_ONLY = {
    "route.v3.VirtualHostDiscoveryService": ("VirtualHosts", VHDS),
    "endpoint.v3.LocalityEndpointDiscoveryService": ("LocalityEndpoints", LEDS),
}


def test_services_methods_are_all_those_of_the_protocol() -> None:
    expected = set()
    for service, (name, type_url) in BOTH.items():
        expected.add((f"/envoy.service.{service}/Delta{name}", DELTA, type_url))
        expected.add((f"/envoy.service.{service}/Stream{name}", SOTW, type_url))
    for service, (name, type_url) in DELTA_ONLY.items():
        expected.add((f"/envoy.service.{service}/Delta{name}", DELTA, type_url))
    assert {(method.path, method.variant, method.type_url) for method in METHODS} == expected
    assert len(METHODS) == len(expected)


def test_services_names_are_each_listed_once() -> None:
    assert sorted(SERVICES) == sorted(f"envoy.service.{service}" for service in [*BOTH, *DELTA_ONLY])


@pytest.mark.parametrize("type_url", sorted(TYPES))
def test_services_every_type_works_on_ads(world: World, variant: Variant, type_url: str) -> None:
    client = world.client(variant)
    client.subscribe(type_url, "x")
    client.ack_all()
    world.publish(resource(type_url, "x"))
    assert client.take()[-1].endswith(" x@1")
    client.ack(type_url)
    world.publish(resource(type_url, "x", 2))
    assert client.take()[-1].endswith(" x@2")


@pytest.mark.parametrize("type_url", sorted(TYPES))
def test_services_every_type_works_per_type(world: World, variant: Variant, type_url: str) -> None:
    world.publish(resource(type_url, "x"))
    client = world.client(variant, per_type=True)
    assert client.subscribe(type_url, "x") == [f"{TYPES[type_url]} #1 x@1"]


def test_services_unknown_type_is_sent_without_order(world: World, variant: Variant) -> None:
    client = world.client(variant)
    client.subscribe(CDS)
    client.subscribe(OTHER, "x")
    client.ack_all()
    world.publish(resource(CDS, "c"), resource(OTHER, "x"))
    assert sorted(line.split()[0] for line in client.take()) == ["CDS", "OTHER"]


def test_services_responses_say_who_they_are_from(world: World, variant: Variant) -> None:
    client = world.client(variant)
    client.subscribe(CDS)
    assert client.last(CDS).identifier == "xds-control-plane"


def test_services_streams_are_listed_oldest_first(world: World) -> None:
    streams = [world.hub.open(DELTA), world.hub.open(SOTW, type_url=CDS), world.hub.open(DELTA, type_url=EDS)]
    assert list(world.hub.streams) == streams
    assert [stream.aggregated for stream in streams] == [True, False, False]


@pytest.mark.parametrize(
    ("about", "shown"),
    [
        ({}, ""),
        ({"user_agent_name": "envoy"}, "envoy"),
        ({"user_agent_name": "gRPC Go", "user_agent_version": "1.70.0"}, "gRPC Go 1.70.0"),
        (
            {
                "user_agent_name": "envoy",
                "user_agent_build_version": {"version": {"major_number": 1, "minor_number": 40, "patch": 0}},
            },
            "envoy 1.40.0",
        ),
        ({"user_agent_name": "envoy", "user_agent_build_version": {}}, "envoy 0.0.0"),
    ],
)
def test_services_a_node_s_user_agent_has_its_version_however_it_is_reported(about: dict, shown: str) -> None:
    assert describe_node(wire.Node(id="n1", **about)).user_agent == shown
