"""The simulation's Envoys on real streams to ``xds serve``, while its groups are changed through the push API.

The seed of a run determines its changes, its faults and the behaviour of its clients. It does not determine their
times, as time is real here: a failing run may pass when it is repeated.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import grpc
from simulation.content import Author, Content, Key
from simulation.ending import differences
from simulation.envoy import Envoy, Habits
from simulation.plan import Event
from simulation.wire_format import Request, decode, spell
from simulation.world import Failure
from support import resources as r
from support.encoded import CDS, EDS, LDS, RDS, short
from support.server import XdsServer
from support.wire import ADS, PER_TYPE

from xds._generated import xds_wire_pb2 as wire
from xds.client import Client
from xds.model.types import short_name
from xds.protocol.policy import Variant

SPAN_S = 2.0
"""All changes are made within this time."""
HOLD_S, FETCH_S = 3.0, 2.5
SERVER_DRAIN_S, CLIENT_DRAIN_S = 1.5, 0.7
QUIET_S = HOLD_S + SERVER_DRAIN_S + 1.5
"""After this time without a message, no more are expected."""
END_S = 60.0
AT_ONCE = 20
LABELS_EACH = 10_000
"""Labels are unique over all runs: those of a run start at its number times this."""
GROUPS_EACH = 2
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
GRPC_CORE = "grpc._cython.cygrpc"
"""grpcio logs an error when a call is cancelled during a write (GRPC_CALL_ERROR_TOO_MANY_OPERATIONS)."""
UNORDERED = "changes are not ordered"


@dataclass(frozen=True, slots=True, order=True)
class Form:
    """The transport of a server and its number of worker processes."""

    kind: str
    workers: int

    def __str__(self) -> str:
        return f"{self.kind}, {self.workers} workers" if self.workers else f"{self.kind}, one process"


FORMS = (Form("native", 2), Form("grpcio", 0), Form("native", 0))


@dataclass(frozen=True, slots=True)
class SocketPlan:
    """All that is drawn from a seed."""

    seed: int
    form: Form
    faults: bool
    late: bool
    habits: tuple[Habits, ...]
    events: tuple[Event, ...]
    small: bool = False
    """Responses are not split."""


def socket_plan(seed: int) -> SocketPlan:
    """Draw a run. Consecutive seeds use the forms of servers in turn."""
    chance = Random(f"sockets {seed}")
    faults, late = chance.random() < 0.4, chance.random() < 0.3
    habits = tuple(
        Habits(
            variant=Variant.DELTA if chance.random() < 0.6 else Variant.SOTW,
            per_type=chance.random() < 0.4,
            fetch_timeout_s=FETCH_S,
            drain_s=CLIENT_DRAIN_S,
            react_s=chance.choice((0.02, 0.02, 0.2)),
        )
        for _ in range(chance.choice((1, 2, 3)))
    )
    kinds = ["change"] * 8 + ["move", "break", "break"] + ["stall"] * (2 if late else 0)
    events = [
        Event(chance.uniform(0.0, SPAN_S), chance.choice(kinds), chance.randrange(len(habits)), chance.getrandbits(32))
        for _ in range(chance.choice((5, 10, 20)))
    ]
    in_order = tuple(sorted(events, key=lambda event: event.at_s))
    return SocketPlan(seed, FORMS[seed % len(FORMS)], faults, late, habits, in_order)


def spell_out(content: Content) -> r.Json:
    """Return a real resource for a content, with the content's label in a text field: ``~k12~``."""
    mark = f"~k{content.label}~"
    clusters = sorted(content.names(CDS))
    rules = [r.weighted(dict.fromkeys(clusters, 1))] if clusters else []
    host = {"name": mark, "domains": ["*"], "routes": rules}
    if content.type_url == CDS:
        if named := sorted(content.names(EDS)):
            return r.cluster(content.name, service_name=named[0], alt_stat_name=mark)
        return r.static_cluster(content.name, 80, alt_stat_name=mark)
    if content.type_url == EDS:
        made = r.assignment(content.name, 80)
        made["endpoints"][0]["lb_endpoints"][0]["endpoint"]["hostname"] = mark
        return made
    if content.type_url == RDS:
        return r.route(content.name, virtual_hosts=[host])
    routes = sorted(content.names(RDS))
    inline = None if routes else {"name": mark, "virtual_hosts": [host]}
    made = r.listener(content.name, 10_000, routes[0] if routes else None, inline=inline)
    made["filter_chains"][0]["filters"][0]["typed_config"]["stat_prefix"] = mark
    return made


class SocketLine:
    """One gRPC stream over a real connection."""

    def __init__(self, run: "SocketRun", envoy: Envoy, channel: grpc.aio.Channel, type_url: str, number: int) -> None:
        self.run, self.envoy, self.number = run, envoy, number
        self.open = True
        self._node_sent = False
        self._nonces: set[str] = set()
        self._asked: dict[str, set[str] | None] = {}
        """All names that were ever subscribed; None for the wildcard."""
        self._unanswered: dict[str, dict[str, float]] = {}
        """The arrival of each unanswered response."""
        self._nacks: list[tuple[float, str]] = []
        self._requests: asyncio.Queue[bytes | None] = asyncio.Queue()
        service = PER_TYPE[short(type_url)] if type_url else ADS
        method = service.delta if envoy.delta else service.sotw
        self._call: Any = channel.stream_stream(f"/{service.name}/{method}")()
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]

    # --- Requests --------------------------------------------------------------------------------------------------

    def send(self, request: Request) -> None:
        """Send a request; the first one gets the node."""
        if not self.open:
            return
        self._note(request)
        if not self._node_sent:
            request.node.CopyFrom(wire.Node(id=self.envoy.node_id, cluster="c"))
            self._node_sent = True
        self._requests.put_nowait(request.SerializeToString())

    def _note(self, request: Request) -> None:
        self._say(f"→ {short(request.type_url)} {spell(request)}")
        delta = isinstance(request, wire.DeltaDiscoveryRequest)
        names = request.resource_names_subscribe if delta else request.resource_names
        asked = self._asked.setdefault(request.type_url, set(names) or None)
        if asked is not None:
            asked |= set(names)
        unanswered = self._unanswered.get(request.type_url, {})
        came_at = unanswered.pop(request.response_nonce, None)
        if came_at is not None and not delta:  # it also answers the messages before it
            for nonce in [nonce for nonce, other in unanswered.items() if other <= came_at]:
                del unanswered[nonce]
        if request.HasField("error_detail"):
            self._nacks.append((self.run.now, request.response_nonce))

    async def _write(self) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError):
            while (data := await self._requests.get()) is not None:
                await self._call.write(data)
            self._call.cancel()

    # --- Responses -------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
            while (data := await self._call.read()) is not grpc.aio.EOF:
                if self.open:
                    self.run.note(self._take, data)
        if self.open:
            self.run.note(self._ended, await self._call.code(), await self._call.details())

    def _take(self, data: bytes) -> None:
        message = decode(self.envoy.habits.variant, data, self.run.read)
        type_url = message.type_url
        self._say(f"← {short(type_url)} {message.nonce}: {message}")
        self.run.heard_at = self.run.now
        about = f"n{self.envoy.number} is sent {short(type_url)} {message.nonce}"
        assert message.nonce not in self._nonces, f"{about}, a nonce that its stream had before"
        self._nonces.add(message.nonce)
        assert type_url in self._asked, f"{about}, a type that it did not ask for"
        asked = self._asked[type_url]
        foreign = set(message.resources) - asked if asked is not None else set()
        assert not foreign, f"{about} with {sorted(foreign)}, to which it has not subscribed"
        groups = {held.content.group for held in message.resources.values()}
        assert groups <= self.run.groups_of[self.envoy.number], f"{about} of groups {sorted(groups)}"
        waiting = self._unanswered.setdefault(type_url, {})
        assert all(self.run.is_late(came_at) for came_at in waiting.values()), f"{about} while {waiting} are unanswered"
        self.run.note_lateness(self.envoy)
        waiting[message.nonce] = self.run.now
        self.envoy.take(self, message)

    def _ended(self, code: grpc.StatusCode, details: str) -> None:
        raise AssertionError(f"n{self.envoy.number}: the server ended a stream: {code.name} {details}")

    def waits_since(self) -> float:
        """Return when the server started to wait for an answer."""
        return min((at for nonces in self._unanswered.values() for at in nonces.values()), default=self.run.now)

    # --- Its end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the stream after all requests are sent."""
        self.open = False
        self._requests.put_nowait(None)

    def lose(self) -> None:
        """Stop receiving and sending. The last messages may or may not have arrived."""
        self.open = False
        for at, nonce in self._nacks:
            if at > self.run.now - 1.0:
                self.envoy.lose_nack(self, nonce)

    async def abandon(self) -> None:
        """End the stream at once, whatever is in transit."""
        self.open = False
        self._call.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _say(self, text: str) -> None:
        if self.run.transcript is not None:
            self.run.say("n%s/%s %s", self.envoy.number, self.number, text)


class SocketRun:
    """One run: its groups, its Envoys and its events. ``go`` raises AssertionError."""

    def __init__(self, drawn: SocketPlan, home: "Home", *, transcript: bool = False) -> None:
        self.plan, self.home = drawn, home
        self.transcript: list[str] | None = [] if transcript else None
        seed = drawn.seed
        self.groups = [f"s{seed}-{number}" for number in range(GROUPS_EACH)]
        self.author = Author(self.groups, faults=drawn.faults, secrets=False)
        self.author.labels = seed * LABELS_EACH
        self.envoys = {number: self._envoy(number) for number in range(len(drawn.habits))}
        first = Random(f"groups {seed}")
        self.group_of = {number: first.choice(self.groups) for number in self.envoys}
        self.groups_of = {number: {group} for number, group in self.group_of.items()}
        self.lines: list[SocketLine] = []
        self.heard_at = self.began_at = self.now
        self._contents: dict[int, Content] = {}
        self._channels: dict[int, grpc.aio.Channel] = {}
        self._failures: list[BaseException] = []
        self._over = False
        self._client = Client(f"127.0.0.1:{home.server.api_port}", patience_s=30)

    def _envoy(self, number: int) -> Envoy:
        habits = self.plan.habits[number]
        envoy = Envoy(self, number, habits, Random(f"sockets {self.plan.seed} {number}"))
        envoy.node_id = f"s{self.plan.seed}-n{number}"
        # The other simulation covers routes to rejected clusters. And unlike Envoy, gRPC does not keep the order of the
        # messages of several streams: it may deliver endpoints before the clusters that arrived before them.
        envoy.unknown = self.plan.faults or habits.per_type
        return envoy

    # --- What Envoys live in ---------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """The time."""
        return asyncio.get_running_loop().time()

    def later(self, seconds: float, what: Callable[..., None], *arguments: Any) -> None:
        """Schedule an event after a delay."""
        asyncio.get_running_loop().call_later(seconds, self.note, what, *arguments)

    def note(self, what: Callable[..., None], *arguments: Any) -> None:
        """Run an event unless the run has ended, and record its failure."""
        if self._over:
            return
        try:
            what(*arguments)
        except BaseException as error:
            self._failures.append(error)

    def dial(self, envoy: Envoy, type_url: str) -> SocketLine:
        """Open a stream on the client's current connection."""
        channel = self._channels.get(envoy.number)
        if channel is None:
            address = f"127.0.0.1:{self.home.server.port}"
            channel = self._channels[envoy.number] = grpc.aio.insecure_channel(address, options=OPTIONS)
        self.lines.append(SocketLine(self, envoy, channel, type_url, len(self.lines) + 1))
        return self.lines[-1]

    def say(self, line: str, *values: object) -> None:
        """Add a line to the transcript."""
        if self.transcript is not None:
            self.transcript.append(f"{self.now - self.began_at:10.3f} {line % values}")

    def read(self, type_url: str, body: bytes) -> Content:
        """Return the content of a resource."""
        found = re.search(rb"~k(\d+)~", body)
        assert found is not None, f"{type_url}: {body!r}"
        return self._contents[int(found[1])]

    def is_late(self, came_at: float) -> bool:
        """Say whether the hold timeout of a response may have passed."""
        return self.now - came_at >= HOLD_S / 2

    def note_lateness(self, envoy: Envoy) -> None:
        """Record that a hold timeout may have passed, after which messages may arrive out of order."""
        if any(self.is_late(line.waits_since()) for line in self.lines if line.envoy is envoy and line.open):
            envoy.was_late = envoy.unknown = True

    # --- What happens ----------------------------------------------------------------------------------------------

    async def go(self) -> None:
        """Run all events; at the end all clients must have all resources."""
        try:
            async with asyncio.timeout(2 * END_S), self._client:
                await self._go()
        finally:
            self._over = True
            await asyncio.gather(*(line.abandon() for line in self.lines))
            for channel in self._channels.values():
                await channel.close()

    async def _go(self) -> None:
        first = Random(f"first {self.plan.seed}")
        for group in self.groups:
            await self._publish(group, self.author.change(group, first))
        await self._put_rules()
        for envoy in self.envoys.values():
            self.later(first.random() * 0.2, envoy.connect)
        start = self.now
        for event in self.plan.events:
            await asyncio.sleep(start + event.at_s - self.now)
            await self._happen(event, Random(event.seed))
            self._raise()
        await self._finish()

    async def _happen(self, event: Event, chance: Random) -> None:
        envoy = self.envoys[event.who]
        if event.kind == "move":
            group = chance.choice(self.groups)
            self.say("-- n%s moves to %s", event.who, group)
            self.group_of[event.who] = group
            self.groups_of[event.who].add(group)
            await self._put_rules()
        elif event.kind == "break":
            if envoy.connected:
                await self._break(envoy, early=chance.random() < 0.4)
        elif event.kind == "stall":
            seconds = chance.choice((0.3, 1.0, HOLD_S + 1.0))
            self.say("-- n%s does nothing for %.1f s", event.who, seconds)
            envoy.stall(seconds)
            if seconds > HOLD_S / 2:
                envoy.was_late = envoy.unknown = True
        else:
            group = self.group_of[event.who]
            await self._publish(group, self.author.change(group, chance))

    async def _put_rules(self) -> None:
        await self.home.put_rules(
            self._client, {self.envoys[number].node_id: group for number, group in self.group_of.items()}
        )

    async def _publish(self, group: str, state: Mapping[Key, Content]) -> None:
        before = self.author.states[group]
        self._contents |= {content.label: content for content in state.values()}
        changed = [content for key, content in sorted(state.items()) if before.get(key) != content]
        gone = [key for key in sorted(before) if key not in state]
        words = [f"{short(c.type_url)} {c}" for c in changed] + [f"{short(url)} -{name}" for url, name in gone]
        self.say("-- %s: %s", group, ", ".join(words) or "nothing changes")
        self.author.keep(group, dict(state))
        remove = [(short_name(url), name) for url, name in gone]
        await self._client.apply(upsert=[spell_out(content) for content in changed], remove=remove, group=group)

    async def _break(self, envoy: Envoy, *, early: bool) -> None:
        """Break a client's streams; it reconnects to any worker, ``early`` before the server notices their end."""
        self.say(
            "-- n%s loses its streams, and is back %s that is noticed", envoy.number, "before" if early else "after"
        )
        channel = self._channels.pop(envoy.number, None)
        mine = [line for line in self.lines if line.envoy is envoy and line.open]
        for line in mine:
            line.lose()
        envoy.disconnected()
        if not early:
            await self._abandon(mine, channel)
            await self._wait_gone(envoy)
        envoy.returned = True
        envoy.returned_early = envoy.returned_early or early
        # Draining resources are not known everywhere after an early reconnect, nor, on SotW, in another process.
        envoy.unknown = envoy.unknown or early or (not envoy.delta and self.plan.form.workers > 1)
        envoy.warming_at_return = {name for name, cluster in envoy.clusters.items() if cluster.warming}
        self.note(envoy.connect)
        if early:
            await asyncio.sleep(0.1)
            await self._abandon(mine, channel)

    async def _abandon(self, lines: Iterable[SocketLine], channel: grpc.aio.Channel | None) -> None:
        await asyncio.gather(*(line.abandon() for line in lines))
        if channel is not None:
            await channel.close()

    async def _wait_gone(self, envoy: Envoy) -> None:
        """Wait until the server has noticed the end of a client's streams."""
        async with asyncio.timeout(END_S):
            while (await self._client.nodes(id=envoy.node_id)).nodes:
                await asyncio.sleep(0.01)

    # --- The end ---------------------------------------------------------------------------------------------------

    async def _finish(self) -> None:
        """Fix bad resources and change all once more: then all clients have them, and the status says so."""
        self.say("-- no more faults")
        for group in self.groups:
            await self._publish(group, self.author.repaired(group))
        for group in self.groups:
            await self._publish(group, self.author.touched(group))
        began_at = self.now
        while wrong := self._wrong() or await self._unsettled():
            self._raise()
            until = min(max(self.heard_at, began_at) + QUIET_S, began_at + END_S)
            assert self.now < until, f"in the end {wrong[0]}"
            await asyncio.sleep(0.02)
        self._raise()

    def _wrong(self) -> list[str]:
        """Return the differences from the state that is required at the end."""
        found = []
        for number, envoy in self.envoys.items():
            found += differences(envoy, self.author.states[self.group_of[number]], strict=True)
            if envoy.draining or (LDS, "") not in envoy.subscriptions:
                found.append(f"n{number} still drains, or never asked for listeners")
        return found

    async def _unsettled(self) -> list[str]:
        """Return the clients that are not in sync by the server's status."""
        found = []
        for number, envoy in self.envoys.items():
            nodes = (await self._client.nodes(id=envoy.node_id)).nodes
            if [node.state for node in nodes] != ["accepted"]:
                types = [str(each) for node in nodes for each in node.types if each.pending or each.nacked]
                found.append(f"the server takes n{number} to be {[node.state for node in nodes]}: {types}")
        return found

    def _raise(self) -> None:
        if self._failures:
            raise self._failures[0]


class Home:
    """A server with the group rules of the nodes of all runs."""

    def __init__(self, server: XdsServer) -> None:
        self.server = server
        self._groups: dict[str, str] = {}
        self._lock = asyncio.Lock()

    async def put_rules(self, client: Client, groups: Mapping[str, str]) -> None:
        """Set the groups of some nodes; return once the rules are served."""
        async with self._lock:
            self._groups |= groups
            rules = [{"group": group, "match": {"id": node}} for node, group in sorted(self._groups.items())]
            await client.put_rules({"rules": rules})


@asynccontextmanager
async def serving(form: Form, *, ordered: bool) -> AsyncIterator[Home]:
    """Run a server; at its end it must have no streams left, and no logged errors of its own."""
    settings = {
        "transport.kind": form.kind,
        "protocol.listener_drain_s": SERVER_DRAIN_S,
        "protocol.hold_timeout_s": HOLD_S,
        "protocol.ordering": ordered,
    }
    if form.kind == "native":
        settings["transport.workers"] = form.workers
    async with XdsServer(None, settings=settings) as server:
        await server.wait_ready()
        yield Home(server)
        await server.wait_metrics(lambda metrics: metrics["xds_streams"] == 0)
        errors = [event for event in server.events() if event.get("level") in ("error", "critical")]
        faults = [event for event in errors if event["logger"] != GRPC_CORE]
        assert not faults, faults


async def run_seeds(
    seeds: Iterable[int],
    took: Callable[[int, Failure | None, list[str] | None], bool],
    *,
    transcript: bool = False,
    mutation: str = "",
) -> None:
    """Run seeds, several at a time; call ``took`` with each one's failure, or None, and its transcript.

    No further seeds are started once it returns False.
    """
    drawn = [socket_plan(seed) for seed in seeds]
    async with AsyncExitStack() as stack:
        forms = sorted({each.form for each in drawn})
        ordered = mutation != UNORDERED
        started = (stack.enter_async_context(serving(form, ordered=ordered)) for form in forms)
        homes = dict(zip(forms, await asyncio.gather(*started), strict=True))
        places = asyncio.Semaphore(AT_ONCE)

        async def one(each: SocketPlan) -> None:
            async with places:
                run = SocketRun(each, homes[each.form], transcript=transcript)
                failure = None
                try:
                    await run.go()
                except Exception as error:
                    failure = Failure(f"{type(error).__name__}: {error}", run)
                if not took(each.seed, failure, run.transcript):
                    for other in tasks:
                        other.cancel()

        async with asyncio.TaskGroup() as runs:
            tasks = [runs.create_task(one(each)) for each in drawn]
