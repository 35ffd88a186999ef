"""A Hub without sockets and clock, its simulated clients, and a transcript of the messages each was sent.

Unlike most of ``support`` this drives the product's pure core directly. Clients act only on the test's calls; the
messages sent to them are decoded and written by ``support.messages``.
"""

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager

from google.protobuf import struct_pb2

from support.encoded import TYPES, VHDS, short
from support.messages import Message, decode
from support.rechecked import RecheckedHub
from xds._generated import xds_wire_pb2 as wire
from xds.model.catalog import Catalog
from xds.model.changeset import Applied, Changeset
from xds.model.groups import GroupTable
from xds.model.identity import ANONYMOUS, Peer
from xds.model.resource import Resource
from xds.protocol.client_state import StepCache
from xds.protocol.errors import StreamRefusedError
from xds.protocol.hub import Hub
from xds.protocol.node_history import Share, share_with_nobody
from xds.protocol.policy import Limits, Ordering, Variant
from xds.protocol.responses import Encoding, Part
from xds.protocol.session_watch import SessionWatch
from xds.protocol.sessions import Stream
from xds.protocol.status import Event

DELTA, SOTW = Variant.DELTA, Variant.SOTW
MESSAGES_MAX = 500
"""More messages than this at one time count as an endless loop."""


class World:
    """A catalog, a hub and a clock. After every event, all pending messages are sent to the clients."""

    def __init__(
        self,
        *,
        ordering: Ordering | None = None,
        encoding: Encoding | None = None,
        limits: Limits | None = None,
        groups: GroupTable | None = None,
        share: Share = share_with_nobody,
        step_cache: StepCache | None = None,
        watch: SessionWatch | None = None,
    ) -> None:
        self.catalog = Catalog(check_references=False)
        if groups is not None:
            self.catalog.apply(Changeset(groups=groups))
        self.hub: Hub = RecheckedHub(
            self.catalog,
            knows_type=TYPES.__contains__,
            ordering=ordering,
            encoding=encoding,
            limits=limits,
            share=share,
            step_cache=step_cache,
            watch=watch,
        )
        self.now = 1000.0
        self.clients: list[Client] = []
        self.transcript: list[str] = []
        self._of: dict[Stream, Client] = {}
        self._bursts = 0

    # --- Changes and time

    def apply(self, *upserts: Resource, remove: Iterable[Resource] = (), group: str = "default") -> Applied:
        """Change the catalog without publishing the change yet."""
        gone = tuple((resource.type_url, resource.name) for resource in remove)
        return self.catalog.apply(Changeset(upserts={group: upserts}, removals={group: gone}))

    def publish(self, *upserts: Resource, remove: Iterable[Resource] = (), group: str = "default") -> None:
        """Change the resources served, all at one revision."""
        removed = list(remove)
        words = [f"{short(r.type_url)} {r.name}@{r.version}" for r in upserts]
        words += [f"{short(r.type_url)} -{r.name}" for r in removed]
        self.say(f"publish {', '.join(words)}")
        self.hub.publish(self.apply(*upserts, remove=removed, group=group))
        self.pump()

    def regroup(self, groups: GroupTable) -> None:
        """Change the groups and the rules that assign nodes to them."""
        self.hub.publish(self.catalog.apply(Changeset(groups=groups)))
        self.pump()

    def advance(self, seconds: float) -> None:
        """Advance the clock, with a tick at each time that the hub asks for, and at no other."""
        end = self.now + seconds
        self.say(f"{seconds:g} s pass")
        ticks = 0
        while self.hub.next_tick_at <= end:
            self.now = max(self.now, self.hub.next_tick_at)
            self.hub.tick(self.now)
            self.pump()
            ticks += 1
            assert ticks < MESSAGES_MAX, "the hub asks for one tick after the other"
        self.now = end

    def events(self) -> list[Event]:
        """Return the hub's events since the last call."""
        return self.hub.take_events()

    # --- Clients

    def client(self, variant: Variant = DELTA, node: str = "n1", **options: object) -> "Client":
        """Return a new client; see ``Client`` for the options. Its streams open with their first requests."""
        made = Client(self, variant, node, **options)  # type: ignore[arg-type]
        self.clients.append(made)
        return made

    @contextmanager
    def burst(self) -> Generator[None]:
        """Deliver all requests made in the block before any is answered, as with pipelined requests."""
        self._bursts += 1
        yield
        self._bursts -= 1
        self.pump()

    def pump(self) -> None:
        """Poll every ready stream until it has nothing more to send, as a transport does."""
        if self._bursts:
            return
        for _ in range(MESSAGES_MAX):
            ready = self.hub.take_ready()
            if not ready:
                return
            for stream in ready:
                self.drain(stream)
        raise AssertionError("the hub's streams make each other ready for ever")

    def drain(self, stream: Stream) -> None:
        """Poll one stream until it has nothing more to send."""
        client = self._of[stream]
        for _ in range(MESSAGES_MAX):
            try:
                part = self.hub.poll(stream, self.now)
            except StreamRefusedError as refusal:
                client.ended(stream, refusal)
                return
            if part is None:
                return
            client.got(stream, part)
        raise AssertionError(f"one stream is sent message after message: {client.take()[-3:]}")

    def open(self, client: "Client", variant: Variant, type_url: str, connection: str) -> Stream:
        """Open a stream for a client."""
        stream = self.hub.open(variant, type_url=type_url, connection=connection, peer=client.peer)
        self._of[stream] = client
        return stream

    def say(self, line: str) -> None:
        """Add a line to the transcript."""
        self.transcript.append(f"-- {line}" if line else "")

    def check_nothing_unsaid(self) -> None:
        """Assert that no stream has a pending message without being ready."""
        for stream in list(self.hub.streams):
            part = self.hub.poll(stream, self.now) if stream.refusal is None else None
            assert part is None, f"unsaid: {decode(stream.variant, part, 0)}"


class Client:
    """One node: an aggregated stream, or with ``per_type``, one for each subscription, as in Envoy.

    Each method returns the messages sent to the client since the last ``take``, as text.
    """

    def __init__(
        self,
        world: World,
        variant: Variant,
        node: str,
        *,
        cluster: str = "c1",
        per_type: bool = False,
        connection: str = "tcp1",
        metadata: Mapping[str, object] | None = None,
        user_agent: str = "",
        peer: Peer = ANONYMOUS,
    ) -> None:
        self.world = world
        self.peer = peer
        self.variant = variant
        self.per_type = per_type
        self.connection = connection
        self.node = wire.Node(id=node, cluster=cluster, user_agent_name=user_agent)
        if metadata:
            described = struct_pb2.Struct()
            described.update(metadata)
            self.node.metadata = described.SerializeToString()
        self.streams: dict[tuple[str, str], Stream] = {}
        self.messages: list[Message] = []
        self.messages_on: dict[Stream, list[Message]] = {}
        self.unanswered: dict[Stream, dict[str, list[Message]]] = {}
        self.names: dict[tuple[Stream, str], list[str]] = {}
        self.accepted: dict[tuple[Stream, str], tuple[str, str]] = {}  # SotW: version accepted, nonce answered
        self.held: dict[str, dict[str, str]] = {}
        self.wild: set[tuple[Stream, str]] = set()
        self._introduced: set[Stream] = set()
        self._inbox: list[str] = []

    # --- Responses

    def got(self, stream: Stream, part: Part) -> None:
        """Record a message."""
        message = decode(self.variant, part, len(self.messages) + 1)
        self.messages.append(message)
        self.messages_on.setdefault(stream, []).append(message)
        self.unanswered.setdefault(stream, {}).setdefault(message.type_url, []).append(message)
        self._note(str(message))

    def ended(self, stream: Stream, refusal: StreamRefusedError) -> None:
        """Note that the server ended a stream."""
        self._close(stream)
        self.streams = {key: other for key, other in self.streams.items() if other is not stream}
        self._note(f"END {refusal.status.name}: {refusal.message}")

    def _note(self, text: str) -> None:
        self._inbox.append(text)
        self.world.transcript.append(f"   {self.node.id} <- {text}")

    def take(self) -> list[str]:
        """Return the messages since the last call."""
        taken, self._inbox = self._inbox, []
        return taken

    def last(self, type_url: str) -> Message:
        """Return the last message of a type."""
        return [message for message in self.messages if message.type_url == type_url][-1]

    # --- Requests

    def request(
        self,
        type_url: str,
        *,
        subscribe: Iterable[str] = (),
        unsubscribe: Iterable[str] = (),
        have: Mapping[str, str] | str | None = None,
        nonce: str | None = None,
        error: str | None = None,
        node: wire.Node | None = None,
        key: str | None = None,
        locators: bool = False,
    ) -> list[str]:
        """Send a request with any of its parts; ``have`` are a reconnecting client's versions of the type.

        ``node`` replaces the node, which by default is in each stream's first request. ``key`` chooses among per-type
        streams of one type. A SotW request lists all names, including those subscribed before.
        """
        adding, dropping = list(subscribe), list(unsubscribe)
        stream = self.stream(type_url, (adding[0] if adding else "") if key is None else key)
        if (stream, type_url) not in self.names and not adding and type_url != VHDS:
            self.wild.add((stream, type_url))
        names = self.names.setdefault((stream, type_url), [])
        for name in dropping if (stream, type_url) not in self.wild else ():
            self.held.get(type_url, {}).pop(name, None)
        self._say(type_url, names, adding, dropping, have, nonce, error)
        names[:] = [name for name in dict.fromkeys([*names, *adding]) if name not in dropping]
        if self.variant is DELTA:
            made: wire.DeltaDiscoveryRequest | wire.DiscoveryRequest = wire.DeltaDiscoveryRequest(type_url=type_url)
            if locators:
                made.resource_locators_subscribe.extend(wire.ResourceLocator(name=name) for name in adding)
                made.resource_locators_unsubscribe.extend(wire.ResourceLocator(name=name) for name in dropping)
            else:
                made.resource_names_subscribe.extend(adding)
                made.resource_names_unsubscribe.extend(dropping)
            made.initial_resource_versions.update(have or {})
            made.response_nonce = nonce or ""
        else:
            version, answered = self.accepted.get((stream, type_url), ("", ""))
            made = wire.DiscoveryRequest(type_url=type_url, version_info=version if have is None else have)
            if locators:
                made.resource_locators.extend(wire.ResourceLocator(name=name) for name in names)
            else:
                made.resource_names.extend(names)
            made.response_nonce = answered if nonce is None else nonce
        if error is not None:
            made.error_detail.CopyFrom(wire.Status(code=13, message=error))
        if node is not None:
            made.node.CopyFrom(node)
        elif stream not in self._introduced:
            made.node.CopyFrom(self.node)
        self._introduced.add(stream)
        return self.send(made.SerializeToString(), stream)

    def send(self, data: bytes, stream: Stream | None = None) -> list[str]:
        """Send bytes, which need not be a request, by default on the aggregated stream."""
        stream = stream or self.stream("", "")
        try:
            self.world.hub.receive(stream, data, self.world.now)
        except StreamRefusedError as refusal:
            self.ended(stream, refusal)
        self.world.pump()
        return self.take()

    def _say(
        self,
        type_url: str,
        names: list[str],
        adding: list[str],
        dropping: list[str],
        have: Mapping[str, str] | str | None,
        nonce: str | None,
        error: str | None,
    ) -> None:
        words = [short(type_url)]
        if nonce:
            number = next((str(m.number) for m in self.messages if m.nonce == nonce), "?")
            words.append(f"NACK #{number} {error!r}" if error is not None else f"ACK #{number}")
        words += [f"+{name}" for name in adding] + [f"-{name}" for name in dropping]
        if isinstance(have, str):
            words.append("has its version")
        elif have:
            words.append("has " + " ".join(f"{name}@{version}" for name, version in have.items()))
        self.world.transcript.append(f"{self.node.id} -> {' '.join(words if len(words) > 1 else [*words, '*'])}")

    def subscribe(self, type_url: str, *names: str, have: Mapping[str, str] | str | None = None) -> list[str]:
        """Subscribe to names, or without names, on a type's first request, to everything. Per type, one stream each."""
        if not self.per_type or not names:
            return self.request(type_url, subscribe=names, have=have)
        said: list[str] = []
        for name in names:
            said += self.request(type_url, subscribe=[name], have=have)
        return said

    def unsubscribe(self, type_url: str, *names: str) -> list[str]:
        """Unsubscribe from names; per type, by ending their streams."""
        if not self.per_type:
            return self.request(type_url, unsubscribe=names)
        for name in names:
            self.world.transcript.append(f"{self.node.id} -> {short(type_url)} ends the stream of {name}")
            self._close(self.streams.pop((type_url, name)))
        self.world.pump()
        return self.take()

    def ack(self, type_url: str, **also: Iterable[str]) -> list[str]:
        """ACK the oldest unanswered message of a type; ``also`` subscribes and unsubscribes with it."""
        return self._answer(type_url, None, also)

    def nack(self, type_url: str, message: str = "bad", **also: Iterable[str]) -> list[str]:
        """Reject the oldest unanswered message of a type."""
        return self._answer(type_url, message, also)

    def ack_all(self) -> list[str]:
        """ACK all messages until there are no more; return them."""
        said = self.take()
        for _ in range(MESSAGES_MAX):
            waiting = [t for by_type in self.unanswered.values() for t, queue in by_type.items() if queue]
            if not waiting:
                return said
            said += self.ack(waiting[0])
        raise AssertionError(f"message after message follows an ACK: {said[-3:]}")

    def _answer(self, type_url: str, error: str | None, also: Mapping[str, Iterable[str]]) -> list[str]:
        key, stream = next(
            (key, stream) for key, stream in self.streams.items() if self.unanswered.get(stream, {}).get(type_url)
        )
        message = self.unanswered[stream][type_url].pop(0)
        if error is None:
            held = self.held.setdefault(type_url, {})
            held.update({r.name: r.version for r in message.resources if r.HasField("resource")})
            for name in message.removed:
                held.pop(name, None)
        version, _ = self.accepted.get((stream, type_url), ("", ""))
        self.accepted[stream, type_url] = (message.version if error is None else version, message.nonce)
        return self.request(type_url, nonce=message.nonce, error=error, key=key[1], **also)  # type: ignore[arg-type]

    def stream(self, type_url: str, name: str) -> Stream:
        """Return the stream for a type and, where each has its own, a name: the open one, or a new one."""
        key = (type_url, name) if self.per_type else ("", "")
        if key not in self.streams:
            self.streams[key] = self.world.open(self, self.variant, key[0], self.connection)
        return self.streams[key]

    def close(self) -> None:
        """End all streams."""
        for stream in self.streams.values():
            self._close(stream)
        self.streams = {}
        self.world.pump()

    def _close(self, stream: Stream) -> None:
        self.world.hub.close(stream)
        self.unanswered.pop(stream, None)

    def reconnect(
        self, *types: str, world: World | None = None, before_closing: bool = False, closing: bool = True
    ) -> "Client":
        """Reconnect as Envoy does: all types in one burst, with the accepted versions, in the order of ``types``.

        ``world`` is another replica. With ``before_closing`` the old stream ends only afterwards; without ``closing``
        its end is not noticed.
        """
        home = world or self.world
        self.world.say(f"{self.node.id} reconnects")
        options = {"cluster": self.node.cluster, "user_agent": self.node.user_agent_name, "per_type": self.per_type}
        again = home.client(self.variant, self.node.id, **options, connection=self.connection + "'")
        again.held = {type_url: dict(names) for type_url, names in self.held.items()}
        if closing and not before_closing:
            self.close()
        with home.burst():
            for (stream, type_url), names in sorted(self.names.items(), key=_in_order_of(types)):
                have: Mapping[str, str] | str = again.held.get(type_url, {})
                asked = names
                if self.variant is SOTW:
                    have = self.accepted.get((stream, type_url), ("", ""))[0]
                    opened = again.stream(type_url, names[0] if names else "")
                    again.accepted[opened, type_url] = (have, "")
                elif self.per_type and names:
                    have = {name: version for name, version in have.items() if name in names}
                elif names and (stream, type_url) in self.wild:
                    asked = ["*", *names]
                again.request(type_url, subscribe=asked, have=have)
        if closing and before_closing:
            self.close()
        return again


def _in_order_of(types: tuple[str, ...]) -> Callable[[tuple[tuple[Stream, str], list[str]]], int]:
    order = [*types, *TYPES]
    return lambda item: order.index(item[0][1])


MakeWorld = Callable[..., World]
