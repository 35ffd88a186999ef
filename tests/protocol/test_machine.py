"""State machine: after any events in any order, every client has what it subscribes to, and was sent nothing twice."""

import os

import pytest
from google.protobuf.any_pb2 import Any
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from support.audit import HOLD_S, LIMIT_BYTES, NAMES, Audit, Client
from support.naive import FULL_STATE, THING, Link, NaiveCatalog, Subscription, resource
from support.same_examples import without_constants_of_the_source

from xds.model import types
from xds.model.catalog import Catalog
from xds.model.changeset import Applied, Changeset
from xds.model.groups import GroupTable, Rule
from xds.model.resource import Resource
from xds.model.rules import Rules
from xds.protocol.hub import Hub
from xds.protocol.policy import Missing, Ordering, Variant, policy_of
from xds.protocol.responses import Encoding

pytestmark = pytest.mark.timeout(600)  # shrinking a failure takes minutes

EXAMPLES = int(os.environ.get("XDS_TEST_EXAMPLES", "800"))
SEED = int(os.environ.get("XDS_TEST_SEED", "1"))
"""Which examples are tried: the same in every run."""
without_constants_of_the_source()
DRAIN_S, TTL_S = 20.0, 9.0
GROUPS = ("default", "base", "overlay")
TYPES = (types.CLUSTER, types.ENDPOINTS, types.LISTENER, types.ROUTE, types.SECRET, types.VIRTUAL_HOST, THING)

names = st.sets(st.sampled_from(NAMES), min_size=1, max_size=3)
operations = st.lists(
    st.tuples(
        st.sampled_from(GROUPS),
        st.sampled_from(TYPES),
        st.sampled_from(NAMES),
        st.one_of(st.none(), st.integers(0, 2)),  # removed, or its content
        st.sampled_from((False, False, False, True)),  # with a TTL or, for a virtual host, an alias
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda operation: operation[:3],
)


def made(type_url: str, name: str, content: int, special: bool) -> Resource:
    """Make a resource: cluster n uses endpoints n, a route the clusters of its content, a listener a route."""
    references: dict[str, list[tuple[str, str]]] = {
        types.CLUSTER: [(types.ENDPOINTS, name)],
        types.ROUTE: [(types.CLUSTER, NAMES[content])],
        types.LISTENER: [(types.ROUTE, name)] if content else [(types.CLUSTER, name)],
    }
    padding = "x" * 150 * content
    return resource(
        type_url, name, [content, padding], references=references.get(type_url, ()),
        aliases=(f"r/{name}",) if special and type_url == types.VIRTUAL_HOST else (),
        ttl_s=TTL_S if special and type_url in (types.CLUSTER, THING, types.SECRET) else None,
    )  # fmt: skip


@seed(SEED)
class Machine(RuleBasedStateMachine):
    """Random clients and changes; ``settle`` compares the results."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.catalog = Catalog(check_references=False)
        self.naive = NaiveCatalog()
        self.clients: list[Client] = []
        self.unpublished: list[Applied] = []
        self.polled: set[Link] = set()
        self.nonces: dict[str, bytes] = {}

    @initialize(
        clients=st.lists(
            st.tuples(st.sampled_from(GROUPS), st.sampled_from(Variant), st.booleans()), min_size=1, max_size=3
        ),
        small=st.booleans(),
        ordered=st.sampled_from((True, True, False)),
    )
    def start(self, clients: list[tuple[str, Variant, bool]], small: bool, ordered: bool) -> None:
        self.small = small
        table = GroupTable(extends={"overlay": "base"})
        seed = resource(types.RUNTIME, "seed", 0)
        self.catalog.apply(Changeset(groups=table, upserts=dict.fromkeys(GROUPS, (seed,))))
        self.naive.table = table
        encoding = Encoding(response_bytes_max=LIMIT_BYTES) if small else Encoding()
        ordering = Ordering(enabled=ordered, hold_timeout_s=HOLD_S, listener_drain_s=DRAIN_S)
        self.hub = Hub(self.catalog, knows_type=lambda _: True, ordering=ordering, encoding=encoding)
        self.clients = [Client(number, *how) for number, how in enumerate(clients)]

    # --- What the operator does -------------------------------------------------------------------------------

    @rule(operations=operations, publish=st.sampled_from((True, True, False)))
    def change(self, operations: list[tuple[str, str, str, int | None, bool]], publish: bool) -> None:
        upserts: dict[str, tuple[Resource, ...]] = {}
        removals: dict[str, tuple[tuple[str, str], ...]] = {}
        for group, type_url, name, content, special in operations:
            own = self.naive.own.setdefault(group, {})
            if content is None:
                own.pop((type_url, name), None)
                removals[group] = (*removals.get(group, ()), (type_url, name))
            else:
                own[type_url, name] = made(type_url, name, content, special)
                upserts[group] = (*upserts.get(group, ()), own[type_url, name])
        self.unpublished.append(self.catalog.apply(Changeset(upserts=upserts, removals=removals)))
        if publish:
            self.publish()

    def publish(self) -> None:
        while self.unpublished:
            self.hub.publish(self.unpublished.pop(0))
        self.pump()

    @rule(
        extends=st.sampled_from(({}, {"overlay": "base"}, {"overlay": "default"})),
        rules=st.sampled_from(((), (Rule(group="base", id="n0"),), (Rule(group="overlay", id="n[01]"),))),
    )
    def regroup(self, extends: dict[str, str], rules: tuple[Rule, ...]) -> None:
        self.naive.table = GroupTable(rules=rules, extends=extends)
        self.unpublished.append(self.catalog.apply(Changeset(groups=self.naive.table)))
        self.publish()

    # --- What clients do --------------------------------------------------------------------------------------

    @rule(
        data=st.data(),
        type_url=st.sampled_from(TYPES),
        add=names,
        drop=st.one_of(st.builds(set), names),
        wild=st.sampled_from(("", "", "+", "-")),
    )
    def subscribe(self, data: st.DataObject, type_url: str, add: set[str], drop: set[str], wild: str) -> None:
        client = data.draw(st.sampled_from(self.clients))
        if type_url == types.VIRTUAL_HOST:
            if client.variant is Variant.SOTW:
                return
            add, drop = {f"r/{name}" for name in add}, {f"r/{name}" for name in drop}
        subscription = client.subscriptions.get(type_url)
        if subscription is None:
            self._begin(client, type_url, add, wild)
            return
        add, drop = (add - drop if data.draw(st.booleans()) else set()), set(drop)
        if wild == "+":
            add.add("*")
        if wild == "-" and (client.variant is Variant.DELTA or subscription.explicit):
            drop.add("*")
        self._change(client, subscription, add, drop)

    def _begin(self, client: Client, type_url: str, names: set[str], wild: str) -> None:
        link = client.link(self.hub, type_url)
        wildcard = wild != "" and type_url != types.VIRTUAL_HOST
        subscription = Subscription(type_url, client.variant, link, wildcard, set() if wild else names)
        client.subscriptions[type_url] = subscription
        audit = client.audits[type_url] = Audit(self.small)
        audit.asked_all = True
        subscription.begin(legacy=wild == "+")
        link.deliver(self.now)
        self.pump()

    def _change(self, client: Client, subscription: Subscription, add: set[str], drop: set[str]) -> None:
        subscription.change(add, drop)
        audit = client.audits[subscription.type_url]
        audit.note_change(subscription, add, drop - add)
        audit.unheard = any(message.type_url == subscription.type_url for message in subscription.link.inbox)
        subscription.link.deliver(self.now)
        self.pump()

    @precondition(lambda self: any(self._inboxes()))
    @rule(data=st.data(), fault=st.sampled_from((0, 0, 0, 0, 1)), change=st.sampled_from((0, 0, 0, 1)))
    def handle(self, data: st.DataObject, fault: int, change: int) -> None:
        client, link = data.draw(st.sampled_from(list(self._inboxes())))
        message = link.inbox[0]
        applied = None
        if fault and not message.heartbeat:
            applied = set(data.draw(st.lists(st.sampled_from(message.names)))) if message.names else set()
        changes = (data.draw(names), data.draw(names)) if change and message.type_url != types.VIRTUAL_HOST else None
        self._handle(client, link, applied, changes)

    def _inboxes(self) -> list[tuple[Client, Link]]:
        return [(client, link) for client in self.clients for link in client.links.values() if link.inbox]

    def _handle(
        self, client: Client, link: Link, applied: set[str] | None, changes: tuple[set[str], set[str]] | None
    ) -> None:
        message = link.inbox.popleft()
        subscription = client.subscriptions[message.type_url]
        if applied is None:
            subscription.accept(message)
        else:
            subscription.reject(message, applied)
        client.note_answer(message, rejected=applied is not None)
        last = message.type_url not in {other.type_url for other in link.inbox}
        audit = client.audits[message.type_url]
        audit.note_answer(message, rejected=applied is not None, last=last)
        add, drop = changes or (set(), set())
        subscription.change(add, drop, nonce=message.nonce, error="no" if applied is not None else "")
        if changes:
            audit.note_change(subscription, add, drop - add)
            audit.unheard = not last
        link.deliver(self.now)
        self.pump()

    @rule(data=st.data())
    def dawdle(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self.clients))
        client.slow = not client.slow
        self.pump()

    @rule(data=st.data(), legacy=st.booleans())
    def reconnect(self, data: st.DataObject, legacy: bool) -> None:
        client = data.draw(st.sampled_from(self.clients))
        for link in client.links.values():
            self.polled.discard(link)
            link.close()
        client.links.clear()
        client.connections += 1
        client.rejected_clusters.clear()
        client.forget_nothings()
        order = data.draw(st.permutations(list(client.subscriptions)))
        for type_url in order:
            subscription = client.subscriptions[type_url]
            subscription.link = client.link(self.hub, type_url)
            may_repeat = client.aggregated and type_url == order[0]
            missing = subscription.names - self._published(client, type_url)
            client.audits[type_url] = client.audits[type_url].renewed(subscription, missing, may_repeat=may_repeat)
            subscription.begin(legacy=legacy and type_url != types.VIRTUAL_HOST)
            subscription.link.deliver(self.now)
        self.pump()

    @rule(seconds=st.sampled_from((0.5, 3.0, 6.0, 25.0)))
    def wait(self, seconds: float) -> None:
        self._advance(self.now + seconds)

    def _advance(self, until: float) -> None:
        while self.hub.next_tick_at <= until:
            self.now = max(self.now, self.hub.next_tick_at)
            self.hub.tick(self.now)
            self.pump()
        self.now = until

    # --- What the server sends --------------------------------------------------------------------------------

    def pump(self) -> None:
        """Poll all ready streams until they have no more messages, except for those of slow clients."""
        by_stream = {link.stream: (client, link) for client in self.clients for link in client.links.values()}
        owners = {link: client for client, link in by_stream.values()}
        for _ in range(200):
            self.polled |= {by_stream[stream][1] for stream in self.hub.take_ready()}
            able = [link for link in owners if link in self.polled and not owners[link].slow]
            if not able:
                return
            for link in able:
                self.polled.discard(link)
                for _ in range(100):
                    message = link.poll(self.now)
                    if message is None:
                        break
                    data = link.parts[-1].message
                    assert self.nonces.setdefault(message.nonce, data) is data, "one nonce, two messages"
                    owners[link].check(message, self.now)
                else:
                    raise AssertionError("a stream never has enough")
        raise AssertionError("streams wake each other for ever")

    # --- Quiet -----------------------------------------------------------------------------------------------

    @rule()
    def settle(self) -> None:
        for client in self.clients:
            client.slow = False
        self.publish()
        end = self.now + 2 * HOLD_S + DRAIN_S + 10
        for _ in range(1_000):
            for client, link in self._inboxes():
                self._handle(client, link, None, None)
            if self._inboxes():
                continue
            if self.hub.next_tick_at > end:
                break
            self._advance(self.hub.next_tick_at)
        assert not self._inboxes(), "never quiet"
        self.now = end
        self.hub.tick(end)
        for client in self.clients:
            for subscription in client.subscriptions.values():
                self._compare(client, subscription)

    def teardown(self) -> None:
        if self.clients:
            self.settle()
            for client in self.clients:
                for link in client.links.values():
                    link.close()
            assert not self.hub.streams
            assert not self.hub._sessions

    def _compare(self, client: Client, subscription: Subscription) -> None:
        type_url = subscription.type_url
        snapshot = self._snapshot(client, type_url)
        expected = {
            name: r.body for name, r in snapshot.items()
            if subscription.wildcard or name in subscription.names or subscription.names & set(r.aliases)
        }  # fmt: skip
        forgets = subscription.variant is Variant.DELTA or type_url in FULL_STATE
        lenient = self._excused(client, subscription)
        for name in {*expected, *(subscription.view if forgets else ())}:
            held = subscription.view.get(name)
            wanted = resource_value(expected.get(name))
            if name in subscription.doubtful and subscription.doubtful[name] == wanted:
                continue
            if (held and held.body) != wanted and name not in lenient:
                raise AssertionError(f"{client.node.id} {type_url} {name}: {held} instead of {wanted!r}")
        if policy_of(type_url).missing is Missing.REMOVED:
            assert not client.audits[type_url].unanswered, "a subscription was never answered"

    def _snapshot(self, client: Client, type_url: str) -> dict[str, Resource]:
        group = Rules(self.naive.table).place(client.group_node, dict.fromkeys(GROUPS)).group
        assert group is not None
        return self.naive.snapshot(group, type_url)

    def _published(self, client: Client, type_url: str) -> set[str]:
        """Return the names in the snapshot of the client's group."""
        group = Rules(self.naive.table).place(client.group_node, dict.fromkeys(GROUPS)).group
        assert group is not None
        return set(self.hub.snapshot(group).view(type_url))

    def _excused(self, client: Client, subscription: Subscription) -> set[str]:
        """Return the names whose change may be held: clusters in use, and routes to rejected clusters."""
        type_url = subscription.type_url
        if type_url in (types.CLUSTER, types.ENDPOINTS):
            return self._in_use(client) - set(self._snapshot(client, types.CLUSTER))
        if type_url in (types.ROUTE, types.LISTENER):
            snapshot = self._snapshot(client, type_url).items()
            rejected = client.rejected_clusters
            return {n for n, r in snapshot if rejected & {x.name for x in r.references if x.type_url == types.CLUSTER}}
        return set()

    def _in_use(self, client: Client) -> set[str]:
        used: set[str] = set()
        for type_url in (types.ROUTE, types.LISTENER):
            subscription = client.subscriptions.get(type_url)
            if subscription is None:
                continue
            used = used.union(*(held.names(types.CLUSTER) for held in subscription.view.values()))
            snapshot = self._snapshot(client, type_url)
            for name, bodies in client.audits[type_url].history.items():
                if name not in snapshot or name in subscription.doubtful or client.rejected_clusters:
                    used = used.union(*(held.names(types.CLUSTER) for held in bodies))
        return used


def resource_value(body: bytes | None) -> bytes | None:
    """Return the JSON text within an encoded Any."""
    return None if body is None else Any.FromString(body).value


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=40, deadline=None, database=None, print_blob=True,
    derandomize="XDS_TEST_EXAMPLES" not in os.environ,  # the same examples in every run, unless it is to search
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)  # fmt: skip


class Drawn:
    """Stands for ``st.DataObject`` in a recorded run: draws the given values in turn."""

    def __init__(self, *values: object) -> None:
        self.values = list(values)

    def draw(self, _: object) -> Any:
        """Return the next value."""
        return self.values.pop(0)


def test_a_listener_follows_on_a_new_stream_although_endpoints_need_no_answer() -> None:
    """Found by this machine: after endpoints of which nothing was sent, the stream was not polled for the listener."""
    machine = Machine()
    machine.start(clients=[("default", Variant.SOTW, True)], small=False, ordered=True)
    (client,) = machine.clients
    kinds = [types.ROUTE, types.ENDPOINTS, types.LISTENER]
    for type_url in kinds:
        machine.subscribe(data=Drawn(client), type_url=type_url, add={"1"}, drop=set(), wild="")
    machine.settle()
    machine.change(operations=[("default", types.LISTENER, "1", 0, False)], publish=True)
    machine.reconnect(data=Drawn(client, kinds), legacy=False)
    machine.settle()
    machine.teardown()
