"""Scenes that many protocol tests begin with: a client with all resources, and a route that moves."""

from support.encoded import CDS, EDS, LDS, RDS, cluster, endpoints, listener, route
from support.hubs import DELTA, Client, World
from xds.protocol.policy import Variant


def started(world: World, variant: Variant = DELTA, node: str = "n1", *, per_type: bool = False) -> Client:
    """Return a client that was sent and ACKed cluster a, its endpoints, listener l and route r to a: four messages."""
    world.publish(cluster("a"), endpoints("a"), listener("l", routes="r"), route("r", 1, "a"))
    client = world.client(variant, node, per_type=per_type)
    start(client)
    return client


def start(client: Client) -> None:
    """Do what Envoy does when it starts with cluster a, listener l and route r."""
    said = client.subscribe(CDS)
    said += client.subscribe(EDS, "a")
    said += client.ack(CDS) + client.ack(EDS)
    said += client.subscribe(LDS)
    said += client.subscribe(RDS, "r")
    said += client.ack(LDS) + client.ack(RDS)
    assert [line.split()[0] for line in said] == ["CDS", "EDS", "LDS", "RDS"], said


def swap(world: World) -> None:
    """Move route r from cluster a to a new cluster b, and remove a, all at once."""
    world.publish(cluster("b"), endpoints("b"), route("r", 2, "b"), remove=[cluster("a")])


def full(variant: Variant, changed: str, everything: str) -> str:
    """Return the names in a response for clusters or listeners: ``changed`` in delta, ``everything`` in SotW."""
    return changed if variant is DELTA else everything
