"""A simulated Envoy: it requests the resources that its resources refer to, and answers when it uses what it was sent.

Clusters warm with an assignment that arrives after them; on ADS they are ACKed when all are warm. Listeners warm with
their routes, and drain when they are replaced. Envoy may apply a rejected response in part. It is independent of the
server and of the network.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from simulation.content import GOOD, UNREADABLE, Content, Key
from simulation.wire_format import Held, Message, Request, delta_request, sotw_request
from support.encoded import CDS, EDS, LDS, RDS, SDS, short

from xds.protocol.policy import Variant

ORDER = (CDS, EDS, LDS, RDS, SDS)
"""The order of Envoy's requests when it reconnects."""
FULL_STATE = (CDS, LDS)


class Line(Protocol):
    """One gRPC stream from the client's side."""

    open: bool

    def send(self, request: Request) -> None:
        """Send a request."""
        ...

    def close(self) -> None:
        """End the stream."""
        ...


class Host(Protocol):
    """The environment of an Envoy: its clock and its network."""

    now: float

    def later(self, seconds: float, what: Callable[..., None], *arguments: Any) -> None:
        """Schedule an event after a delay."""
        ...

    def dial(self, envoy: "Envoy", type_url: str) -> Line:
        """Open a stream of a per-type service, or of ADS if the type is empty."""
        ...

    def say(self, line: str, *values: object) -> None:
        """Add a line to the transcript."""
        ...


class NoLine:
    """The stream of a subscription without a connection."""

    open = False

    def send(self, request: Request) -> None:
        """Send nothing."""

    def close(self) -> None:
        """End nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """The settings of an Envoy. Times are in seconds."""

    variant: Variant
    per_type: bool
    fetch_timeout_s: float = 15.0
    drain_s: float = 30.0
    react_s: float = 0.003
    health_checks: float = 0.0
    """The share of warming clusters that wait for a health check."""
    health_check_s: float = 40.0


@dataclass
class Subscription:
    """One type on one stream. ``names`` None is the wildcard."""

    type_url: str
    names: set[str] | None
    line: Line
    started: bool = False
    reported: dict[str, str] = field(default_factory=dict)
    accepted: str = ""
    nonce: str = ""
    answers: list[tuple[str, str]] = field(default_factory=list)
    adding: set[str] = field(default_factory=set)
    dropping: set[str] = field(default_factory=set)
    changed: bool = False
    paused_until: float = 0.0
    waits: bool = False
    """The first request on this stream is not sent yet."""

    def wants(self, name: str) -> bool:
        """Say whether a resource is subscribed."""
        return self.names is None or name in self.names


@dataclass
class Cluster:
    """A cluster: its active version, and the warming one that replaces it once all of ``waits_for`` arrived."""

    active: Content | None = None
    warming: Content | None = None
    waits_for: set[Key] = field(default_factory=set)
    turn: int = 0


@dataclass
class Listener:
    """A listener that waits for routes or secrets."""

    content: Content
    waits_for: set[Key]


class Envoy:
    """One Envoy. ``connect`` starts it; ``take`` is called with each message that it receives."""

    def __init__(self, host: Host, number: int, habits: Habits, chance: Random) -> None:
        self.host, self.number, self.habits, self.chance = host, number, habits, chance
        self.node_id = f"n{number}"
        self.subscriptions: dict[Key, Subscription] = {}
        self.clusters: dict[str, Cluster] = {}
        self.endpoints: dict[str, Content] = {}
        self.listeners: dict[str, Content] = {}
        self.warming_listeners: dict[str, Listener] = {}
        self.draining: list[tuple[Content, float]] = []
        self.routes: dict[str, Content] = {}
        self.secrets: dict[str, Content] = {}
        self.answered_secrets: set[str] = set()
        self.initial = True
        self.connected = False
        self.connected_at = 0.0
        self.has_rejected = False
        self.returned = False
        self.returned_early = False
        """Whether it reconnected before the server noticed the end of its old streams."""
        self.was_late = False
        self.moved_at = 0.0
        """When the node was last moved to another group: the endpoints of clusters of the former may no longer come."""
        self.unknown = False
        """Whether the server cannot know which resources it had before, and so which clusters they use."""
        self.doubtful: dict[Key, Content | None] = {}
        """Names of rejected responses, each with the rejected version; None for a removal."""
        self.rejected_clusters: set[str] = set()
        self.unsure: set[str] = set()
        """Clusters that it lacks without the server being able to know."""
        self.unsure_keys: set[Key] = set()
        """Names that it holds in another version than it reports, without the server being able to know."""
        self.untold: set[str] = set()
        """Listeners in use that the next server is not told of: a newer one is warming, or they came with bad ones."""
        self.hidden: set[str] = set()
        """Listeners that it had when it came to another server, and did not report."""
        self.untold_routes: set[str] = set()
        """Routes that it had when it connected last, and did not report: the server had removed them. A server answers
        a request for such a route with its newest version, as if the node were a new Envoy that waits for it."""
        self.warming_at_return: set[str] = set()
        self.keeps_listeners = False
        """It returned with listeners that were warming, or came with bad ones. It does not report them, so that nobody
        removes them, and it may subscribe to their routes for ever."""
        self.worked: set[Key] = set()
        self._busy_until = 0.0
        self._steps = 0
        self._rejected: dict[tuple[Line, str], list[Key]] = {}

    # --- Streams ---------------------------------------------------------------------------------------------------

    @property
    def delta(self) -> bool:
        """Say whether it uses delta."""
        return self.habits.variant is Variant.DELTA

    @property
    def per_type(self) -> bool:
        """Say whether it uses per-type streams."""
        return self.habits.per_type

    @property
    def lines(self) -> list[Line]:
        """The streams, oldest first."""
        return list(dict.fromkeys(subscription.line for subscription in self.subscriptions.values()))

    def connect(self) -> None:
        """Reopen the streams and send all requests in one burst (docs/envoy-behaviour.md#reconnect)."""
        self._forget_stream_state()
        self._doubt_what_it_dropped()
        if self.delta:
            self.untold_routes = self.routes.keys() - {name for each in self._of(RDS) for name in each.reported}
        self.connected, self.connected_at = True, self.host.now
        keys = sorted({(CDS, ""), *self.subscriptions}, key=lambda key: (ORDER.index(key[0]), key[1]))
        if self.per_type and not self._asks_for_firsts(keys):
            self.chance.shuffle(keys)  # each stream has its own timer
        line = None if self.per_type else self.host.dial(self, "")
        at = 0.0
        for key in keys:
            old = self.subscriptions.pop(key, None)
            wildcard = key[0] in FULL_STATE
            names = None if wildcard else (old.names if old is not None else {key[1]})
            if self.per_type:
                at += self.chance.choice((0.0, 0.002, 0.2)) if not self._asks_for_firsts(keys) else 0.0
            subscription = Subscription(key[0], names, line or self.host.dial(self, key[0]))
            self.subscriptions[key] = subscription
            if old is not None:
                subscription.reported, subscription.accepted = old.reported, old.accepted
            subscription.waits = True
            if self.per_type and self._asks_for_firsts(keys) and key[0] != CDS:
                self.host.later(3.0, self._flush_if, subscription)
            elif at:
                self.host.later(at, self._flush_if, subscription)
            else:
                self.flush(subscription)

    def _asks_for_firsts(self, keys: Iterable[Key]) -> bool:
        """Say whether it requests listeners or a route that it never had.

        A server cannot distinguish a client that lost its streams before it had any listener, or this route, from one
        that gets its clusters elsewhere. It therefore does not let them wait for clusters (docs/ordering.md).
        """
        known = [self.subscriptions[key] for key in keys if key in self.subscriptions and key[0] in (LDS, RDS)]
        return (LDS, "") not in self.subscriptions or any(
            not (one.reported if self.delta else one.accepted) for one in known
        )

    def _doubt_what_it_dropped(self) -> None:
        """Record names that it dropped and requested again without an answer: its SotW version includes them."""
        if self.delta:
            return
        for type_url, held in ((EDS, self.endpoints), (RDS, self.routes), (SDS, self.secrets)):
            for subscription in self._of(type_url):
                if subscription.accepted:
                    self.unsure_keys |= {(type_url, name) for name in (subscription.names or set()) - held.keys()}

    def _flush_if(self, subscription: Subscription) -> None:
        if subscription in self.subscriptions.values():
            self.flush(subscription)

    def _forget_stream_state(self) -> None:
        """Reset the state of ended streams; after an unsent NACK the server's knowledge is incomplete."""
        for subscription in self.subscriptions.values():
            self._lose_answers(subscription)
            subscription.adding.clear()
            subscription.dropping.clear()
            subscription.nonce, subscription.changed = "", False
        self.subscriptions = {key: s for key, s in self.subscriptions.items() if s.names is None or s.names}

    def disconnected(self) -> None:
        """Handle the end of all streams."""
        self.connected = False

    def _lose_answers(self, subscription: Subscription) -> None:
        for nonce, error in subscription.answers:
            if error:
                self.lose_nack(subscription.line, nonce)
        subscription.answers.clear()

    def lose_nack(self, line: Line, nonce: str) -> None:
        """Record that the server never got the NACK of a response, and so does not know the state of its names."""
        self.doubt(self._rejected.get((line, nonce), ()))

    def doubt(self, keys: Iterable[Key]) -> None:
        """Record names whose state the next server cannot know."""
        for key in keys:
            self.unsure_keys.add(key)
            if key[0] == CDS and not (key[1] in self.clusters and self.clusters[key[1]].active):
                self.unsure.add(key[1])

    def loses_draining(self) -> None:
        """Record that the next server cannot know what older listeners use, except for routes that are subscribed."""
        reported = {name for subscription in self._of(RDS) for name in subscription.reported}

        def is_told(content: Content) -> bool:
            return not content.names(CDS) and content.names(RDS) <= reported

        self.draining = [(content, until) for content, until in self.draining if is_told(content)]
        hidden = (self.warming_listeners.keys() & self.listeners) | self.unreported_listeners
        self.untold |= {name for name in hidden if not is_told(self.listeners[name])}
        self.hidden |= hidden

    @property
    def unreported_listeners(self) -> set[str]:
        """Listeners in use that it does not report, as they came in a response that it rejected."""
        return self.listeners.keys() - {name for each in self._of(LDS) for name in each.reported}

    def stall(self, seconds: float) -> None:
        """Pause for a time."""
        self._busy_until = max(self._busy_until, self.host.now + seconds)

    def pause(self, type_url: str, seconds: float) -> None:
        """Send no requests of a type for a time."""
        for subscription in self._of(type_url):
            subscription.paused_until = self.host.now + seconds
            self.host.later(seconds, self._flush_if, subscription)

    def _of(self, type_url: str) -> list[Subscription]:
        return [subscription for key, subscription in self.subscriptions.items() if key[0] == type_url]

    # --- What it asks for ------------------------------------------------------------------------------------------

    def flush(self, subscription: Subscription) -> None:
        """Send the pending requests of a subscription, unless it is paused."""
        if not subscription.line.open or subscription.paused_until > self.host.now or self._warms(subscription):
            return
        if subscription.waits:
            subscription.waits, subscription.changed = False, False
            subscription.adding.clear()
            subscription.dropping.clear()
            names = subscription.names or set()
            if self.delta:
                first = delta_request(subscription.type_url, subscribe=names, have=subscription.reported)
            else:
                first = sotw_request(subscription.type_url, names=names, version=subscription.accepted, nonce="")
            self._send(subscription, first)
        if self.delta:
            self._flush_delta(subscription)
        elif subscription.answers or subscription.changed:
            # Of several responses that are answered late, only the last one is answered
            # (docs/envoy-behaviour.md#changes).
            _, error = subscription.answers.pop() if subscription.answers else ("", "")
            self._lose_answers(subscription)
            subscription.changed = False
            subscription.adding.clear()
            subscription.dropping.clear()
            names = subscription.names or set()
            self._send(
                subscription,
                sotw_request(
                    subscription.type_url,
                    names=names, version=subscription.accepted, nonce=subscription.nonce, error=error,
                ),
            )  # fmt: skip

    def _flush_delta(self, subscription: Subscription) -> None:
        while subscription.answers or subscription.adding or subscription.dropping:
            nonce, error = subscription.answers.pop(0) if subscription.answers else ("", "")
            request = delta_request(
                subscription.type_url,
                subscribe=subscription.adding, unsubscribe=subscription.dropping, nonce=nonce, error=error,
            )  # fmt: skip
            subscription.adding.clear()
            subscription.dropping.clear()
            self._send(subscription, request)

    def _send(self, subscription: Subscription, request: Request) -> None:
        subscription.line.send(request)

    def _warms(self, subscription: Subscription) -> bool:
        """Say whether clusters are neither requested nor answered because some are warming.

        See docs/envoy-behaviour.md#warming.
        """
        if subscription.type_url != CDS or self.per_type or self.initial:
            return False
        return any(cluster.warming for cluster in self.clusters.values())

    def want(self, type_url: str, names: set[str]) -> None:
        """Subscribe to exactly these names of a type."""
        if self.per_type:
            for key in [key for key in self.subscriptions if key[0] == type_url and key[1] not in names]:
                self.subscriptions.pop(key).line.close()
            for name in sorted(names):
                if (type_url, name) not in self.subscriptions:
                    self._subscribe((type_url, name), {name})
            return
        subscription = self.subscriptions.get((type_url, ""))
        if subscription is None:
            if names:
                self._subscribe((type_url, ""), set(names))
            return
        assert subscription.names is not None
        adding, dropping = names - subscription.names, subscription.names - names
        if not adding and not dropping:
            return
        subscription.names = set(names)
        subscription.changed = True
        for name in dropping:
            subscription.reported.pop(name, None)
            self.doubtful.pop((type_url, name), None)
            self.unsure_keys.discard((type_url, name))
        if not self.delta:  # no request lacks what it drops and adds again meanwhile: the server does not know of it
            self.unsure_keys |= {(type_url, name) for name in adding & subscription.dropping}
        subscription.dropping = (subscription.dropping - adding) | dropping
        subscription.adding = (subscription.adding - dropping) | adding

    def _subscribe(self, key: Key, names: set[str] | None) -> None:
        if not self.connected:
            line: Line = NoLine()
        else:
            line = self.host.dial(self, key[0]) if self.per_type else self.subscriptions[CDS, ""].line
        self.subscriptions[key] = Subscription(key[0], names, line, waits=True)
        self.doubtful.pop(key, None)
        self.unsure_keys.discard(key)

    # --- What comes in ---------------------------------------------------------------------------------------------

    def take(self, line: Line, message: Message) -> None:
        """Receive a message; it is processed after those before it."""
        react_s = self.habits.react_s * self.chance.random()
        self._busy_until = max(self._busy_until, self.host.now) + react_s
        self.host.later(self._busy_until - self.host.now, self._handle, line, message)

    def _handle(self, line: Line, message: Message) -> None:
        found = [s for s in self.subscriptions.values() if s.line is line and s.type_url == message.type_url]
        if not line.open or not found:
            return
        subscription = found[0]
        subscription.nonce = message.nonce
        self.unsure |= message.unsure - {name for name, one in self.clusters.items() if one.active is not None}
        news = {name: held for name, held in message.resources.items() if subscription.wants(name)}
        removed = self._removed(subscription, message)
        bad = sorted(name for name, held in news.items() if held.content.fault)
        if bad:
            self._reject(subscription, message, news, removed, bad)
        else:
            self._accept(subscription, message, news, removed)
        subscription.answers.append((message.nonce, f"bad: {', '.join(bad)}" if bad else ""))
        self._follow_up(subscription)

    def _removed(self, subscription: Subscription, message: Message) -> set[str]:
        """Return the resources of a wildcard type that a message removes."""
        if self.delta:
            return set(message.removed)
        if message.type_url not in FULL_STATE:
            return set()
        have = self.clusters if message.type_url == CDS else {**self.listeners, **self.warming_listeners}
        return set(have) - set(message.resources)

    def _accept(self, subscription: Subscription, message: Message, news: dict[str, Held], removed: set[str]) -> None:
        type_url = message.type_url
        if not self.delta and type_url in FULL_STATE:
            self._trust(key for key in {*self.doubtful, *self.unsure_keys} if key[0] == type_url)
        self._trust((type_url, name) for name in {*news, *removed})
        subscription.accepted = message.version
        if self.delta:
            subscription.reported |= {name: held.version for name, held in news.items()}
            for name in removed:
                subscription.reported.pop(name, None)
        self._apply(type_url, {name: held.content for name, held in news.items()}, removed)

    def _trust(self, keys: Iterable[Key]) -> None:
        for key in list(keys):
            self.doubtful.pop(key, None)
            self.unsure_keys.discard(key)

    def _reject(
        self, subscription: Subscription, message: Message, news: dict[str, Held], removed: set[str], bad: list[str]
    ) -> None:
        """Apply the part of a rejected response that Envoy applies. Reported versions stay.

        See docs/envoy-behaviour.md#rejected-responses.
        """
        type_url = message.type_url
        self.has_rejected = True
        self._rejected[subscription.line, message.nonce] = [
            (type_url, name) for name in {**news, **dict.fromkeys(removed)}
        ]
        for name, held in news.items():
            self.doubtful[type_url, name] = held.content
        for name in removed:
            if subscription.wants(name):
                self.doubtful[type_url, name] = None
        if type_url == CDS:
            self.rejected_clusters |= set(bad)
        if any(news[name].content.fault == UNREADABLE for name in bad):
            self.rejected_clusters |= set(news) if type_url == CDS else set()
            self._warm(type_url, news)
            return
        if type_url in FULL_STATE:
            good = {name: held.content for name, held in news.items() if held.content.fault == GOOD}
            self._apply(type_url, good, removed)
            return
        order = sorted(news)
        self.chance.shuffle(order)
        first = next(number for number, name in enumerate(order) if name in bad)
        self._apply(type_url, {name: news[name].content for name in order[:first]}, set())
        self._warm(type_url, {*news, *removed})  # the wait for a rejected resource ends

    def _apply(self, type_url: str, news: dict[str, Content], removed: set[str]) -> None:
        if type_url == CDS:
            self._clusters(news, removed)
        elif type_url == EDS:
            self.endpoints |= news
            self._warm(EDS, {*news, *removed})
        elif type_url == LDS:
            self._listeners(news, removed)
        elif type_url == RDS:
            self.routes |= news
            self._warm(RDS, news)
        else:
            self.secrets |= news
            self.answered_secrets |= {*news, *removed}
            self._warm(SDS, {*news, *removed})

    def _follow_up(self, subscription: Subscription) -> None:
        """Request the resources that are needed now, and answer: clusters first, if they are warm."""
        self._want_all()
        mine = [subscription] if subscription in self.subscriptions.values() else []
        others = [each for each in self.subscriptions.values() if each is not subscription]
        clusters = [each for each in others if each.type_url == CDS]
        rest = [each for each in others if each.type_url != CDS]
        first, second = (clusters, mine) if self.chance.random() < 0.8 else (mine, clusters)
        for each in (*rest, *first, *second):
            self.flush(each)
        self.check()

    def _settle(self) -> None:
        """Apply the consequences of an internal event."""
        self._want_all()
        for subscription in list(self.subscriptions.values()):
            self.flush(subscription)
        self.check()

    # --- Clusters --------------------------------------------------------------------------------------------------

    def _clusters(self, news: dict[str, Content], removed: set[str]) -> None:
        for name, content in news.items():
            cluster = self.clusters.setdefault(name, Cluster())
            if content == (cluster.warming or cluster.active):
                continue
            cluster.warming = content
            cluster.turn = self._steps = self._steps + 1
            cluster.waits_for = {(EDS, eds) for eds in content.names(EDS)}
            if not self.per_type:
                cluster.waits_for |= {(SDS, s) for s in content.names(SDS) - self.answered_secrets}
            self._ask_again(content)
            if cluster.waits_for:
                self.host.later(self.habits.fetch_timeout_s, self._give_up, name, cluster.turn)
            else:
                self._warmed(name, cluster)
        for name in removed:
            self.clusters.pop(name, None)

    def _ask_again(self, content: Content) -> None:
        """Request the endpoints of a changed cluster again, in the cases in which Envoy does."""
        for name in sorted(content.names(EDS)):
            if self.per_type and (EDS, name) in self.subscriptions:
                old = self.subscriptions.pop((EDS, name))  # a new stream without versions, then the end of the old one
                self._subscribe((EDS, name), {name})
                self.flush(self.subscriptions[EDS, name])
                old.line.close()
            elif not self.per_type and not self.delta and (EDS, "") in self.subscriptions:
                self.subscriptions[EDS, ""].changed = True

    def _warm(self, type_url: str, names: Iterable[str]) -> None:
        """Handle the arrival of resources that clusters or listeners may wait for."""
        came = {(type_url, name) for name in names}
        for name, cluster in sorted(self.clusters.items()):
            if cluster.warming and cluster.waits_for & came:
                cluster.waits_for -= came
                if not cluster.waits_for:
                    self._warmed(name, cluster)
        for name, listener in sorted(self.warming_listeners.items()):
            listener.waits_for -= came
            if not listener.waits_for:
                self._listen(name)

    def _warmed(self, name: str, cluster: Cluster) -> None:
        """Activate a cluster, at once or when its health check has passed."""
        if self.chance.random() < self.habits.health_checks:
            self.host.later(self.chance.random() * self.habits.health_check_s, self._healthy, name, cluster.turn)
        else:
            self._serve(cluster)

    def _healthy(self, name: str, turn: int) -> None:
        cluster = self.clusters.get(name)
        if cluster is not None and cluster.turn == turn and cluster.warming:
            self._serve(cluster)
            self._settle()

    def _serve(self, cluster: Cluster) -> None:
        assert cluster.warming is not None
        cluster.active, cluster.warming = cluster.warming, None
        cluster.waits_for.clear()
        self.unsure.discard(cluster.active.name)
        self.rejected_clusters.discard(cluster.active.name)

    def _give_up(self, name: str, turn: int) -> None:
        """Activate a cluster whose endpoints did not arrive in time (initial_fetch_timeout)."""
        cluster = self.clusters.get(name)
        if cluster is not None and cluster.turn == turn and cluster.waits_for:
            self.host.say("n%s: the endpoints of %s did not come in time", self.number, name)
            since = self.host.now - self.habits.fetch_timeout_s
            excused = self.was_late or not self.connected or max(self.connected_at, self.moved_at + 5.0) > since
            excused = excused or not self.delta
            # It rejected the version that the server has, before the cluster came: it is not sent that once more.
            rejected = [self.doubtful.get(key) for key in cluster.waits_for]
            excused = excused or any(content is not None and content.fault for content in rejected)
            assert excused, f"{self.node_id}: the endpoints of cluster {name} did not come in time"
            self._serve(cluster)
            self._settle()

    # --- Listeners -------------------------------------------------------------------------------------------------

    def _listeners(self, news: dict[str, Content], removed: set[str]) -> None:
        for name, content in news.items():
            warming = self.warming_listeners.get(name)
            if content == (warming.content if warming else self.listeners.get(name)):
                continue
            waits_for = {(RDS, route) for route in content.names(RDS) if route not in self.routes}
            waits_for |= {(SDS, secret) for secret in content.names(SDS) - self.answered_secrets}
            listener = self.warming_listeners[name] = Listener(content, waits_for)
            if waits_for:
                self.host.later(self.habits.fetch_timeout_s, self._listen_anyway, name, listener)
            else:
                self._listen(name)
        for name in removed:
            self.warming_listeners.pop(name, None)
            self._drain(name)

    def _listen_anyway(self, name: str, listener: Listener) -> None:
        if self.warming_listeners.get(name) is listener:
            self.host.say("n%s: what %s waits for did not come in time", self.number, name)
            self._listen(name)
            self._settle()

    def _listen(self, name: str) -> None:
        self._drain(name)
        self.listeners[name] = self.warming_listeners.pop(name).content

    def _drain(self, name: str) -> None:
        content = self.listeners.pop(name, None)
        if content is not None and name not in self.untold:
            self.draining.append((content, self.host.now + self.habits.drain_s))
            self.host.later(self.habits.drain_s, self._drained)
        self.untold.discard(name)

    def _drained(self) -> None:
        self.draining = [(content, until) for content, until in self.draining if until > self.host.now + 1e-6]
        self._settle()

    def _want_all(self) -> None:
        """Subscribe to the resources that clusters and listeners need."""
        clusters = [c for cluster in self.clusters.values() for c in (cluster.active, cluster.warming) if c]
        warming = [listener.content for listener in self.warming_listeners.values()]
        listeners = [*self.listeners.values(), *warming, *(content for content, _ in self.draining)]
        for type_url, holders in ((EDS, clusters), (RDS, listeners), (SDS, [*clusters, *listeners])):
            names = {name for content in holders for name in content.names(type_url)}
            self.want(type_url, names)
            held = {EDS: self.endpoints, RDS: self.routes, SDS: self.secrets}[type_url]
            for name in held.keys() - names:
                del held[name]
            if type_url == SDS:
                self.answered_secrets &= names
        if self.initial and (CDS, "") in self.subscriptions and self._has_first_clusters():
            self.initial = False
            if (LDS, "") not in self.subscriptions:
                self._subscribe((LDS, ""), None)

    def _has_first_clusters(self) -> bool:
        subscription = self.subscriptions[CDS, ""]
        return bool(subscription.nonce) and not any(cluster.warming for cluster in self.clusters.values())

    # --- What it has -----------------------------------------------------------------------------------------------

    def wants(self, key: Key) -> bool:
        """Say whether it subscribes to a resource."""
        return any(subscription.wants(key[1]) for subscription in self._of(key[0]))

    def held(self) -> dict[Key, Content | None]:
        """Return the resources in use, None for those that never warmed."""
        found: dict[Key, Content | None] = {(CDS, name): cluster.active for name, cluster in self.clusters.items()}
        found |= {(LDS, name): content for name, content in self.listeners.items()}
        found |= {(LDS, name): None for name in self.warming_listeners}
        for type_url, held in ((EDS, self.endpoints), (RDS, self.routes), (SDS, self.secrets)):
            found |= {(type_url, name): content for name, content in held.items()}
        return found

    # --- What it can do --------------------------------------------------------------------------------------------

    def uses(self) -> dict[Key, frozenset[str]]:
        """Return the resources that send requests, with their clusters."""
        found: dict[Key, frozenset[str]] = {}
        told = [(name, content) for name, content in self.listeners.items() if name not in self.untold]
        for name, content in [*told, *((f"draining {content}", content) for content, _ in self.draining)]:
            found[LDS, name] = content.names(CDS)
            for route in sorted(content.names(RDS)):
                if route in self.routes:
                    found[RDS, route] = self.routes[route].names(CDS)
        return found

    def check(self) -> None:
        """Assert that each cluster that requests are sent to is active.

        It may be missing if this client rejected it and no working route is affected, or if the server cannot know
        that it is missing.
        """
        if self.unknown:
            return
        serving = {name for name, cluster in self.clusters.items() if cluster.active}
        works = set()
        for key, clusters in self.uses().items():
            missing = clusters - serving
            if not missing:
                works.add(key)
                continue
            if key in self.unsure_keys:
                continue
            missing -= self.unsure
            if not missing:
                continue
            where = f"{self.node_id}: {short(key[0])} {key[1]}"
            assert missing <= self.rejected_clusters, f"{where} uses {sorted(missing)}, which are not there"
            is_untold = (key[0] == LDS and key[1] in self.hidden) or (key[0] == RDS and key[1] in self.untold_routes)
            works_no_more = key in self.worked and not is_untold
            assert not works_no_more, f"{where} worked before, now uses {sorted(missing)}, which were rejected"
        self.worked = works
