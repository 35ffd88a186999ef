"""A faithful xDS client and a catalog, both deliberately naive: dict copies and full comparisons, nothing shared.

The property tests compare the core with them. They share only the wire messages with ``xds.protocol``.
"""

import json
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import NamedTuple

from google.protobuf.any_pb2 import Any

from xds._generated import xds_wire_pb2 as wire
from xds.model import types
from xds.model.groups import GroupTable, lineage_of
from xds.model.resource import Reference, Resource
from xds.protocol.hub import Hub
from xds.protocol.policy import Variant
from xds.protocol.responses import Part
from xds.protocol.sessions import Stream

WRAPPER = types.TYPE_PREFIX + "envoy.service.discovery.v3.Resource"
THING = types.TYPE_PREFIX + "test.Thing"
"""A type that the server has no policy for."""

FULL_STATE = frozenset((types.CLUSTER, types.LISTENER, types.SCOPED_ROUTE))
"""Types whose SotW responses have all resources, so that absence means removal."""


def resource(
    type_url: str,
    name: str,
    content: object,
    *,
    references: Iterable[tuple[str, str]] = (),
    aliases: tuple[str, ...] = (),
    ttl_s: float | None = None,
) -> Resource:
    """Make a resource whose body is JSON: its name, its content and its references."""
    named = sorted(references)
    text = json.dumps({"name": name, "content": content, "references": named, "aliases": aliases, "ttl_s": ttl_s})
    version = sha256(text.encode()).hexdigest()[:8]
    body = Any(type_url=type_url, value=text.encode())
    message = wire.Resource(name=name, version=version, aliases=aliases, resource=body)
    heartbeat = b""
    if ttl_s is not None:
        message.ttl.FromNanoseconds(int(ttl_s * 1e9))
        bodiless = wire.Resource(name=name, version=version, aliases=aliases, ttl=message.ttl)
        heartbeat = bodiless.SerializeToString()
    encoded, encoded_body = message.SerializeToString(), body.SerializeToString()
    start = encoded.index(encoded_body)
    return Resource(
        type_url=type_url, name=name, version=version, encoded=encoded,
        body_start=start, body_end=start + len(encoded_body), ttl_s=ttl_s, heartbeat=heartbeat, aliases=aliases,
        references=tuple(Reference(*pair) for pair in named),
    )  # fmt: skip


class NaiveCatalog:
    """Every group's own resources, and rules; a snapshot is a merge of dicts."""

    def __init__(self) -> None:
        self.own: dict[str, dict[tuple[str, str], Resource]] = {}
        self.table = GroupTable()

    def snapshot(self, group: str, type_url: str) -> dict[str, Resource]:
        """Return the resources of a type that a group's nodes see."""
        merged: dict[str, Resource] = {}
        for base in reversed(lineage_of(self.table, group)):
            merged |= {name: r for (of_type, name), r in self.own.get(base, {}).items() if of_type == type_url}
        return merged


class Held(NamedTuple):
    """A resource as a client has it. In SotW resources have no version: it is empty."""

    version: str
    body: bytes

    @property
    def text(self) -> dict[str, object]:
        """The parsed body."""
        return json.loads(self.body)

    def names(self, type_url: str) -> frozenset[str]:
        """Return the resources of a type that the body refers to."""
        return frozenset(name for url, name in self.text["references"] if url == type_url)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Message:
    """A decoded response of either variant. ``renewed``: resources without a body, as in heartbeats."""

    type_url: str
    nonce: str
    version: str
    resources: Mapping[str, Held]
    renewed: Mapping[str, str]
    removed: tuple[str, ...]
    size: int
    again: bool = False
    """Whether it renews TTLs by sending the client's resources again, as SotW does."""

    @property
    def names(self) -> list[str]:
        """All names in it."""
        return [*self.resources, *self.removed]

    @property
    def heartbeat(self) -> bool:
        """Whether it only renews the client's resources."""
        return self.again or (bool(self.renewed) and not self.resources and not self.removed)


def decode(variant: Variant, data: bytes) -> Message:
    """Decode a response."""
    held: dict[str, Held] = {}
    renewed: dict[str, str] = {}
    absent: list[str] = []
    if variant is Variant.DELTA:
        delta = wire.DeltaDiscoveryResponse.FromString(data)
        for encoded in delta.resources:
            one = wire.Resource.FromString(encoded)
            assert one.name not in held, f"{one.name} twice in one response"
            if one.HasField("resource"):
                held[one.name] = Held(one.version, one.resource.value)
            elif one.version:
                renewed[one.name] = one.version
            else:
                absent.append(one.name)  # as VHDS reports an unknown host
        removed = (*delta.removed_resources, *absent)
        assert not set(removed) & set(held), "a name both added and removed"
        assert len(set(removed)) == len(removed)
        return Message(
            delta.type_url, delta.nonce, delta.system_version_info, held, renewed, removed, len(data)
        )  # fmt: skip
    sotw = wire.DiscoveryResponse.FromString(data)
    for encoded in sotw.resources:
        body = Any.FromString(encoded)
        if body.type_url == WRAPPER:
            one = wire.Resource.FromString(body.value)
            if not one.HasField("resource"):
                renewed[one.name] = one.version
                continue
            body = Any(type_url=one.resource.type_url, value=one.resource.value)
        name = json.loads(body.value)["name"]
        assert name not in held, f"{name} twice in one response"
        held[name] = Held("", body.value)
    return Message(sotw.type_url, sotw.nonce, sotw.version_info, held, renewed, (), len(data))


class Link:
    """One gRPC stream: requests in transit to the server, and messages in transit to the client."""

    def __init__(
        self, hub: Hub, variant: Variant, node: wire.Node, *, type_url: str = "", connection: str = ""
    ) -> None:
        self.hub = hub
        self.variant = variant
        self.node: wire.Node | None = node
        self.stream: Stream = hub.open(variant, type_url=type_url, connection=connection)
        self.outbox: deque[wire.DeltaDiscoveryRequest | wire.DiscoveryRequest] = deque()
        self.inbox: deque[Message] = deque()
        self.parts: list[Part] = []
        self.open = True

    def deliver(self, now: float) -> None:
        """Deliver the oldest request to the server, the first one with the node."""
        request = self.outbox.popleft()
        if self.node is not None:
            request.node.CopyFrom(self.node)
            self.node = None
        self.hub.receive(self.stream, request.SerializeToString(), now)

    def poll(self, now: float) -> Message | None:
        """Move the server's next message to the inbox."""
        part = self.hub.poll(self.stream, now)
        if part is None:
            return None
        self.parts.append(part)
        message = replace(decode(self.variant, part.message), again=part.is_heartbeat)
        assert message.nonce == part.nonce
        self.inbox.append(message)
        return message

    def close(self) -> None:
        """End the stream; requests and messages in transit are lost."""
        self.open = False
        self.outbox.clear()
        self.inbox.clear()
        self.hub.close(self.stream)


@dataclass
class Subscription:
    """The state of one type in a faithful client, over its streams.

    ``view`` are the resources it really has. ``claimed`` are those it reports when it reconnects, which differ after a
    NACK (docs/envoy-behaviour.md#rejected-responses). ``doubtful``: names of rejected responses, with the versions
    rejected.
    """

    type_url: str
    variant: Variant
    link: Link
    wildcard: bool = False
    names: set[str] = field(default_factory=set)
    view: dict[str, Held] = field(default_factory=dict)
    claimed: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, set[str]] = field(default_factory=dict)
    doubtful: dict[str, bytes | None] = field(default_factory=dict)
    nonce: str = ""
    accepted: str = ""
    explicit: bool = False
    """Whether a SotW client has sent names on this stream: from then on, a request without names means none."""
    forgotten: set[str] = field(default_factory=set)
    """Names that a SotW client dropped since it got them: its version still says that it has them."""

    def wants(self, name: str) -> bool:
        """Return whether the client has subscribed to a resource, by its name or by an alias."""
        return self.wildcard or name in self.names or bool(self.names & self.aliases.get(name, set()))

    def begin(self, *, legacy: bool = False) -> None:
        """Send the first request on a link. ``legacy``: an empty list of names stands for the wildcard."""
        self.nonce = ""
        if self.forgotten & self.names or (self.forgotten and self.wildcard):
            self.accepted = ""  # docs/protocol.md#initial-resource-versions: what no server can know
        named = sorted(self.names)
        if self.wildcard and not (legacy and not named):
            named.insert(0, "*")
        self.explicit = bool(named)
        if self.variant is Variant.DELTA:
            self.link.outbox.append(
                wire.DeltaDiscoveryRequest(
                    type_url=self.type_url, resource_names_subscribe=named, initial_resource_versions=self.claimed
                )
            )
        else:
            self.link.outbox.append(
                wire.DiscoveryRequest(type_url=self.type_url, resource_names=named, version_info=self.accepted)
            )

    def change(self, add: Iterable[str] = (), drop: Iterable[str] = (), nonce: str = "", error: str = "") -> None:
        """Subscribe and unsubscribe; with a nonce, the same request answers a response."""
        added, dropped = set(add), set(drop) - set(add)
        self.wildcard = (self.wildcard or "*" in added) and "*" not in dropped
        self.names = (self.names | added) - dropped - {"*"}
        for name in [name for name in self.view if not self.wants(name)]:
            del self.view[name]
            self.forgotten.add(name)
        for known in (self.claimed, self.doubtful):
            for name in [name for name in known if not self.wants(name)]:
                del known[name]
        self.link.outbox.append(self._request(sorted(added), sorted(dropped), nonce, error))

    def _request(self, added: list[str], dropped: list[str], nonce: str, error: str) -> object:
        detail = wire.Status(code=13, message=error) if error else None
        if self.variant is Variant.DELTA:
            return wire.DeltaDiscoveryRequest(
                type_url=self.type_url, resource_names_subscribe=added, resource_names_unsubscribe=dropped,
                response_nonce=nonce, error_detail=detail,
            )  # fmt: skip
        self.explicit = self.explicit or bool(self.names)
        names = [*(["*"] if self.wildcard and self.explicit else []), *sorted(self.names)]
        return wire.DiscoveryRequest(
            type_url=self.type_url, resource_names=names, version_info=self.accepted,
            response_nonce=nonce or self.nonce, error_detail=detail,
        )  # fmt: skip

    def accept(self, message: Message) -> None:
        """Apply a response whole, without answering it."""
        self._note_aliases(message)
        news = {name: held for name, held in message.resources.items() if self.wants(name)}
        if self.variant is Variant.SOTW and self.type_url in FULL_STATE and not message.heartbeat:
            self.view, self.doubtful = dict(news), {}
        else:
            self.view |= news
        for name in message.removed:
            self.view.pop(name, None)
        for name in message.names:
            self.doubtful.pop(name, None)
        self.forgotten = {name for name in {*self.forgotten, *message.names} if name not in self.view}
        if self.variant is Variant.DELTA:
            self.claimed |= {name: held.version for name, held in news.items()}
            for name in message.removed:
                self.claimed.pop(name, None)
        self.accepted = message.version
        self.nonce = message.nonce

    def reject(self, message: Message, applied: set[str]) -> None:
        """Apply only some names of a response; ``claimed`` is unchanged."""
        self._note_aliases(message)
        self.nonce = message.nonce
        touched: dict[str, bytes | None] = {name: held.body for name, held in message.resources.items()}
        touched |= dict.fromkeys(message.removed)
        if self.variant is Variant.SOTW and self.type_url in FULL_STATE:
            touched |= {name: None for name in self.view if name not in touched}
        for name, body in touched.items():
            if not self.wants(name):
                continue
            self.doubtful[name] = body
            if name not in applied:
                continue
            if body is None:
                self.view.pop(name, None)
            else:
                self.view[name] = message.resources[name]

    def _note_aliases(self, message: Message) -> None:
        for name, held in message.resources.items():
            self.aliases[name] = set(held.text["aliases"])  # type: ignore[call-overload]
