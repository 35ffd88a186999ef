"""Hubs with a fault, each of which the simulation must find. The core once had most of these faults.

Each fault changes the bytes between the hub and the wire, or uses the hub's public methods, so it does not depend on
the implementation of the core.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from simulation import network
from simulation.wire_format import Request
from support.encoded import CDS, EDS

from xds._generated import xds_wire_pb2 as wire
from xds.protocol.hub import Hub
from xds.protocol.policy import Ordering, Variant
from xds.protocol.sessions import Stream

Response = wire.DeltaDiscoveryResponse | wire.DiscoveryResponse


@dataclass
class Wire:
    """The requests and responses of one stream."""

    delta: bool
    connection: str
    node: str = ""
    sent: dict[str, dict[str, Response]] = field(default_factory=dict)
    """Type and nonce to the response."""
    lost: set[tuple[str, str]] = field(default_factory=set)
    """The removals in rejected responses, by type and name."""
    versions: dict[str, str] = field(default_factory=dict)


class FaultyHub(Hub):
    """A hub whose requests and responses can be changed in transit."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.wires: dict[Stream, Wire] = {}

    def open(self, variant: Variant, *, type_url: str = "", connection: Any = "") -> Stream:
        stream = super().open(variant, type_url=type_url, connection=connection)
        self.wires[stream] = Wire(variant is Variant.DELTA, connection)
        return stream

    def close(self, stream: Stream) -> None:
        del self.wires[stream]
        super().close(stream)

    def receive(self, stream: Stream, data: bytes, now: float) -> None:
        over = self.wires[stream]
        kind = wire.DeltaDiscoveryRequest if over.delta else wire.DiscoveryRequest
        request = kind.FromString(data)
        if request.HasField("node"):
            over.node = request.node.id
        self.change_request(over, request)
        super().receive(stream, request.SerializeToString(), now)

    def poll(self, stream: Stream, now: float) -> Any:
        part = super().poll(stream, now)
        if part is None:
            return None
        over = self.wires[stream]
        kind = wire.DeltaDiscoveryResponse if over.delta else wire.DiscoveryResponse
        response = kind.FromString(part.message)
        self.change_response(over, response)
        over.sent.setdefault(response.type_url, {})[response.nonce] = response
        return SimpleNamespace(message=response.SerializeToString())

    def change_request(self, over: Wire, request: Request) -> None:
        """Change a request before the hub sees it."""

    def change_response(self, over: Wire, response: Response) -> None:
        """Change a response before it is sent."""


class RemovalsOnce(FaultyHub):
    """A removal in a rejected response is not repeated."""

    def change_request(self, over: Wire, request: Request) -> None:
        sent = over.sent.get(request.type_url, {}).get(request.response_nonce)
        if over.delta and sent is not None and request.HasField("error_detail"):
            over.lost |= {(request.type_url, name) for name in sent.removed_resources}

    def change_response(self, over: Wire, response: Response) -> None:
        if over.delta:
            _keep_removals(response, lambda name: (response.type_url, name) not in over.lost)


class NothingDrainsAway(FaultyHub):
    """Clusters are not removed after their hold has ended."""

    ticked = False

    def tick(self, now: float) -> None:
        self.ticked = True
        super().tick(now)

    def publish(self, applied: Any) -> None:
        self.ticked = False
        super().publish(applied)

    def change_request(self, over: Wire, request: Request) -> None:
        self.ticked = False

    def change_response(self, over: Wire, response: Response) -> None:
        if over.delta and self.ticked and response.type_url == CDS:
            _keep_removals(response, lambda name: False)


class LateRejectionsTakenForAcks(FaultyHub):
    """A NACK of any response but the last of its type is taken for an ACK."""

    def change_request(self, over: Wire, request: Request) -> None:
        sent = [*over.sent.get(request.type_url, ())]
        if request.response_nonce and sent and request.response_nonce != sent[-1]:
            request.ClearField("error_detail")


class NodesForgotten(FaultyHub):
    """The history of a node is lost when it reconnects: NACKed names and draining resources."""

    def change_request(self, over: Wire, request: Request) -> None:
        if request.HasField("node"):
            request.node.id += f"~{over.connection}"


class EarlyReturnsForgotten(FaultyHub):
    """The history of a node is lost if it reconnects before its old streams end."""

    def change_request(self, over: Wire, request: Request) -> None:
        if request.HasField("node"):
            others = [each for each in self.wires.values() if each.node == over.node]
            if any(each.connection != over.connection for each in others):
                request.node.id += f"~{over.connection}"


class EndpointsOnce(FaultyHub):
    """Unchanged endpoints are not sent after their clusters."""

    def change_response(self, over: Wire, response: Response) -> None:
        if not over.delta or response.type_url != EDS:
            return
        for encoded in list(response.resources):
            one = wire.Resource.FromString(encoded)
            if over.versions.get(one.name) == one.version:
                response.resources.remove(encoded)
            over.versions[one.name] = one.version


class FewAreWoken(FaultyHub):
    """A change is not sent to all affected streams."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._woken: list[Stream] = []

    def publish(self, applied: Any) -> None:
        super().publish(applied)
        ready = super().take_ready()
        self._woken += [stream for at, stream in enumerate(ready) if at % 3 != 1]

    def take_ready(self) -> list[Stream]:
        ready, self._woken = self._woken, []
        return [stream for stream in ready if stream in self.wires] + list(super().take_ready())


def _ordered(**settings: Any) -> Callable[..., Hub]:
    """Return a factory of hubs with other ordering settings."""

    def make(*arguments: Any, ordering: Ordering, **options: Any) -> Hub:
        return Hub(*arguments, ordering=replace(ordering, **settings), **options)

    return make


def _keep_removals(response: Response, is_kept: Callable[[str], bool]) -> None:
    kept = [name for name in response.removed_resources if is_kept(name)]
    del response.removed_resources[:]
    response.removed_resources.extend(kept)


MUTATIONS: Mapping[str, Callable[..., Hub]] = {
    # Faults that the core once had.
    "a removal in a rejected response is not sent again": RemovalsOnce,
    "what drains is not forgotten at its time": NothingDrainsAway,
    "a node that is back early is not known": EarlyReturnsForgotten,
    "rejections that come late are taken for ACKs": LateRejectionsTakenForAcks,
    # Similar faults.
    "a node that is back is not known": NodesForgotten,
    "changes are not ordered": _ordered(enabled=False),
    "waits are given up at once": _ordered(hold_timeout_s=0.001),
    "what drains is not kept": _ordered(listener_drain_s=0.001),
    "endpoints do not follow their clusters": EndpointsOnce,
    "changes wake too few streams": FewAreWoken,
}


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """Use hubs with a fault within the context."""
    with patch.object(network, "Hub", MUTATIONS[name]):
        yield
