"""A model of Envoy for ``test_order_machine``: its clusters, listeners and routes, and its subscriptions.

It behaves as docs/envoy-behaviour.md describes: clusters warm on an assignment that comes after them, clusters are
ACKed when all are warm, listeners warm on their routes, replaced listeners drain.
"""

from collections import deque
from dataclasses import dataclass, field

from support.encoded import CDS, EDS, LDS, RDS
from support.naive import Held, Link, Message, Subscription
from xds._generated import xds_wire_pb2 as wire
from xds.protocol.hub import Hub
from xds.protocol.policy import Variant

DRAIN_S = 10.0


@dataclass
class Cluster:
    """A cluster on the client: the active version, and the one that warms to replace it."""

    serving: Held | None = None
    warming: Held | None = None


@dataclass
class Envoy:
    """One Envoy. ``per_type`` opens a stream for each subscription; on ADS, clusters are ACKed when all are warm."""

    hub: Hub
    variant: Variant
    per_type: bool
    number: int = 0
    links: list[Link] = field(default_factory=list)
    subscriptions: dict[tuple[str, str], Subscription] = field(default_factory=dict)
    clusters: dict[str, Cluster] = field(default_factory=dict)
    listeners: dict[str, Held] = field(default_factory=dict)
    warming_listeners: dict[str, Held] = field(default_factory=dict)
    draining: list[tuple[Held, float]] = field(default_factory=list)
    routes: dict[str, Held] = field(default_factory=dict)
    unacked_clusters: deque[tuple[Message, bool]] = field(default_factory=deque)
    rejected: set[str] = field(default_factory=set)
    worked: set[tuple[str, str]] = field(default_factory=set)
    unreported: set[tuple[str, str, bytes]] = field(default_factory=set)
    """Listeners and routes that it applied from rejected responses, and does not report to a new server."""
    initial: bool = True
    deferred: bool = False

    # --- Streams ---------------------------------------------------------------------------------------------

    def connect(self, now: float = 0.0) -> None:
        """Reopen the streams and request everything in one burst (docs/envoy-behaviour.md#reconnect)."""
        for link in self.links:
            link.close()
        self.links, self.number = [], self.number + 1
        self.unacked_clusters.clear()
        self.subscriptions = {key: s for key, s in self.subscriptions.items() if s.wildcard or s.names}
        wanted = [key for key in self.subscriptions if key[0] in (EDS, LDS, RDS)]
        self.deferred = not self.per_type and not self.initial and any(c.warming for c in self.clusters.values())
        if self.deferred:
            wanted.sort(key=lambda key: (EDS, LDS, RDS).index(key[0]))
        else:
            wanted = sorted({(CDS, ""), *wanted}, key=lambda key: (CDS, EDS, LDS, RDS).index(key[0]))
        for key in wanted:
            self.subscribe(key)
            if self.per_type and key[0] == CDS and self._asks_for_firsts(wanted):
                # A server can't distinguish a client that lost its streams before it had any listener, or this route,
                # from one with clusters from another source, so it does not hold these back for the clusters.
                self.links[-1].deliver(now)

    def meet_new_server(self, hub: Hub) -> None:
        """Lose the streams to a server that knew the client, and note what the new one can't know."""
        self.hub = hub
        # A new server does not know which clusters the draining listeners use (docs/ordering.md).
        self.draining = [(held, until) for held, until in self.draining if not held.names(CDS)]
        self.unreported = {
            (type_url, name, held.body)
            for type_url, resources in ((LDS, self.listeners), (RDS, self.routes))
            for name, held in resources.items()
            if all(s.claimed.get(name) != held.version for key, s in self.subscriptions.items() if key[0] == type_url)
        }
        for link in self.links:
            link.open = False
            link.hub = hub

    def _asks_for_firsts(self, wanted: list[tuple[str, str]]) -> bool:
        known = (self.subscriptions[key] for key in wanted if key in self.subscriptions and key[0] in (LDS, RDS))
        return (LDS, "") not in self.subscriptions or any(not subscription.view for subscription in known)

    def subscribe(self, key: tuple[str, str]) -> None:
        """Send the first request of a subscription, on a new link unless aggregated."""
        type_url, name = key
        if self.per_type or not self.links:
            node = wire.Node(id="envoy", cluster="default")
            of_type = type_url if self.per_type else ""
            link = Link(self.hub, self.variant, node, type_url=of_type, connection=str(self.number))
            self.links.append(link)
        link = self.links[-1]
        subscription = self.subscriptions.get(key)
        if subscription is None:
            subscription = self.subscriptions[key] = Subscription(type_url, self.variant, link)
            subscription.wildcard, subscription.names = type_url in (CDS, LDS), {name} - {""}
        subscription.link = link
        subscription.begin(legacy=True)

    def want(self, type_url: str, names: set[str]) -> None:
        """Subscribe to these names of endpoints or routes, and to no others."""
        if not self.per_type:
            key = (type_url, "")
            subscription = self.subscriptions.get(key)
            if subscription is None:
                if not names:
                    return
                subscription = self.subscriptions[key] = Subscription(type_url, self.variant, self.links[0])
                subscription.names = set(names)
                subscription.begin()
            elif subscription.names != names:
                subscription.change(names - subscription.names, subscription.names - names)
            return
        for key in [key for key in self.subscriptions if key[0] == type_url and key[1] not in names]:
            link = self.subscriptions.pop(key).link
            self.links.remove(link)
            link.close()
        for name in sorted(names):
            if (type_url, name) not in self.subscriptions:
                self.subscribe((type_url, name))

    # --- Responses -------------------------------------------------------------------------------------------

    def handle(self, link: Link, now: float, applied: set[str] | None) -> None:
        """Handle the oldest message of a link; if it is rejected, ``applied`` are the names in it that are valid."""
        message = link.inbox.popleft()
        key = (message.type_url, "")
        if self.per_type and message.type_url in (EDS, RDS):
            key = next(k for k, s in self.subscriptions.items() if s.link is link)
        subscription = self.subscriptions[key]
        before = set(subscription.view)
        if applied is None:
            subscription.accept(message)
        else:
            if message.type_url in (EDS, RDS):
                applied -= set(message.removed)
            else:
                applied |= set(message.removed)
            subscription.reject(message, applied)
        news = {n: h for n, h in message.resources.items() if applied is None or n in applied}
        news = {n: h for n, h in news.items() if subscription.wants(n)}
        gone = before - set(subscription.view)
        if message.type_url == CDS:
            self._clusters(message, news, gone, rejected=applied is not None)
            return
        if message.type_url == EDS:
            self._endpoints({*news, *message.removed})
        elif message.type_url == LDS:
            self._listeners(news, gone, now)
        else:
            self.routes |= news
        self._warm_listeners(now)
        self.answer(subscription, message, rejected=applied is not None)
        self.settle_clusters()

    def answer(self, subscription: Subscription, message: Message, *, rejected: bool) -> None:
        """Send the ACK or NACK of a message."""
        if subscription.link.open:
            subscription.change(nonce=message.nonce, error="no" if rejected else "")

    def _clusters(self, message: Message, news: dict[str, Held], gone: set[str], *, rejected: bool) -> None:
        if rejected:
            self.rejected |= set(message.resources) - set(news)
        changed = []
        for name, held in news.items():
            cluster = self.clusters.setdefault(name, Cluster())
            if held not in (cluster.serving, cluster.warming) or cluster.warming not in (None, held):
                cluster.warming = held
                changed.append(name)
        for name in gone:
            self.clusters.pop(name, None)
        names = {n for c in self.clusters.values() for h in (c.serving, c.warming) if h for n in h.names(EDS)}
        for name in changed if self.per_type else ():
            for eds in self.clusters[name].warming.names(EDS):  # type: ignore[union-attr]
                if (EDS, eds) in self.subscriptions:  # a new stream without versions, then the old one closes
                    self.want(EDS, {n for t, n in self.subscriptions if t == EDS} - {eds})
        self.want(EDS, names)
        self.unacked_clusters.append((message, rejected))
        self.settle_clusters()

    def _endpoints(self, names: set[str]) -> None:
        for cluster in self.clusters.values():
            if cluster.warming is not None and cluster.warming.names(EDS) & names:
                cluster.serving, cluster.warming = cluster.warming, None

    def settle_clusters(self) -> None:
        """Answer clusters once all are warm; after the first time, request listeners."""
        warm = not any(cluster.warming for cluster in self.clusters.values())
        if self.deferred and warm:
            self.deferred = False
            self.subscribe_late()
        while self.unacked_clusters and (warm or self.per_type or self.initial):
            message, rejected = self.unacked_clusters.popleft()
            subscription = self.subscriptions[CDS, ""]
            if not self.unacked_clusters or self.variant is Variant.DELTA:
                self.answer(subscription, message, rejected=rejected)
            if self.initial and not self.unacked_clusters:
                self.initial = False
        if warm and not self.initial and (LDS, "") not in self.subscriptions:
            self.subscribe((LDS, ""))

    def time_out(self) -> None:
        """Give up on endpoints that did not come: Envoy's initial_fetch_timeout. SotW can't report missing ones."""
        for cluster in self.clusters.values():
            if cluster.warming is not None:
                cluster.serving, cluster.warming = cluster.warming, None
        self.settle_clusters()

    def subscribe_late(self) -> None:
        """Request clusters again after a pause, during which some warmed."""
        subscription = self.subscriptions[CDS, ""]
        subscription.link = self.links[0]
        subscription.begin(legacy=True)

    def _listeners(self, news: dict[str, Held], gone: set[str], now: float) -> None:
        self.warming_listeners |= news
        for name in gone:
            self.warming_listeners.pop(name, None)
            if name in self.listeners:
                self.draining.append((self.listeners.pop(name), now + DRAIN_S))
        self.want_routes(now)

    def _warm_listeners(self, now: float) -> None:
        for name, held in list(self.warming_listeners.items()):
            if held.names(RDS) <= set(self.routes):
                if name in self.listeners and self.listeners[name] != held:
                    self.draining.append((self.listeners[name], now + DRAIN_S))
                self.listeners[name] = self.warming_listeners.pop(name)
        self.want_routes(now)

    def want_routes(self, now: float) -> None:
        """Subscribe to the routes of all listeners, draining ones too."""
        self.draining = [(held, until) for held, until in self.draining if until > now]
        all_listeners = [
            *self.listeners.values(),
            *self.warming_listeners.values(),
            *(held for held, _ in self.draining),
        ]
        names = {name for held in all_listeners for name in held.names(RDS)}
        self.routes = {name: held for name, held in self.routes.items() if name in names}
        self.want(RDS, names)

    # --- Checks ----------------------------------------------------------------------------------------------

    def uses(self) -> dict[tuple[str, str], frozenset[str]]:
        """Return the active listeners and routes, with the clusters that each refers to."""
        found: dict[tuple[str, str], frozenset[str]] = {}
        # Each by itself: a draining listener without its cluster is not affected by another that has it.
        draining = [(f"draining {held.body!r}", held) for held, _ in self.draining]
        active = [*self.listeners.items(), *draining]
        for name, held in active:
            if (LDS, name, held.body) not in self.unreported:
                found[LDS, name] = found.get((LDS, name), frozenset()) | held.names(CDS)
            for route in held.names(RDS) & set(self.routes):
                if (RDS, route, self.routes[route].body) not in self.unreported:
                    found[RDS, route] = self.routes[route].names(CDS)
        return found

    def check(self) -> None:
        """Assert that every referenced cluster serves, or was rejected and nothing that worked has stopped."""
        serving = {name for name, cluster in self.clusters.items() if cluster.serving}
        self.rejected -= serving
        works = set()
        for key, clusters in self.uses().items():
            missing = clusters - serving
            if not missing:
                works.add(key)
                continue
            assert missing <= self.rejected, f"{key} uses {missing}"
            assert key not in self.worked, f"{key} worked before, now uses {missing}"
        self.worked = works
