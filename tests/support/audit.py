"""Checks each message to a simulated client of ``test_machine`` against its possible causes.

An audit sees only the messages and the requests of one type, not the server's state.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from support.naive import FULL_STATE, Held, Link, Message, Subscription
from xds._generated import xds_wire_pb2 as wire
from xds.model import types
from xds.model.groups import Node
from xds.protocol.hub import Hub
from xds.protocol.policy import Stage, Variant, policy_of

HOLD_S = 5.0
LIMIT_BYTES = 600
NAMES = ("1", "2", "3", "4")
"""All resource names, for every type."""


@dataclass
class Audit:
    """The resources that the server may assume a client has of one type, and the reasons to send any again."""

    small: bool
    """Whether responses are split into parts of about ``LIMIT_BYTES``."""
    sent: dict[str, object] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    asked_all: bool = False
    unheard: bool = False
    """Whether a SotW client changed its subscription while messages were unanswered: the change takes effect with the
    answer to the last of these."""
    loose: dict[str, int] = field(default_factory=dict)
    """Names that may be sent again until a later message is accepted, each with the number of messages before."""
    unanswered: set[str] = field(default_factory=set)
    unacked: dict[str, float] = field(default_factory=dict)
    """Nonces of unanswered messages, each with the time of its sending."""
    sent_as: dict[str, int] = field(default_factory=dict)
    """Nonces, each with its message's number on the stream."""
    history: dict[str, set[Held]] = field(default_factory=lambda: defaultdict(set))

    def note_change(self, subscription: Subscription, add: set[str], drop: set[str]) -> None:
        """Note the answers expected to a request that just changed a subscription."""
        if subscription.variant is Variant.SOTW:
            self.asked_all = True  # repeated or added names may be answered with everything
        else:
            self.asked |= add | drop
            self.asked_all = self.asked_all or "*" in add | drop
            self.unanswered = {name for name in self.unanswered if name in subscription.names} | (add - {"*"})
        for name in [name for name in self.sent if not subscription.wants(name)]:
            del self.sent[name]

    def note_answer(self, message: Message, *, rejected: bool, last: bool) -> None:
        """Note that the client is about to answer a message; ``last``: it is the last one sent of its type."""
        if last and self.unheard:
            self.asked_all, self.unheard = True, False
        self.unacked.pop(message.nonce, None)
        order = self.sent_as.get(message.nonce, 0)
        if not rejected:
            for name in [name for name in message.names if self.loose.get(name, order) < order]:
                del self.loose[name]

    def loosen(self, names: Iterable[str]) -> None:
        """Note that names may be sent again, changed or not."""
        self.loose |= dict.fromkeys(names, len(self.sent_as))

    def renewed(self, subscription: Subscription, missing: set[str], *, may_repeat: bool) -> "Audit":
        """Return the audit of the stream that replaces this one's, before its first request.

        ``missing``: subscribed names that do not exist now. They must be answered, by their state at that time.
        """
        audit = Audit(self.small, loose=dict.fromkeys({*self.loose, *subscription.doubtful}, 0))
        # A message given up on is answered with the next: a NACK of it may be unknown, so its names may be sent again.
        subscription.doubtful.clear()
        audit.asked_all = subscription.variant is Variant.SOTW or not subscription.claimed or may_repeat
        audit.asked = set(missing)
        if subscription.variant is Variant.DELTA:
            audit.sent = dict(subscription.claimed)
        for name, held in subscription.view.items():
            audit.history[name].add(held)  # what it returns with, it may go on using once that is removed
        return audit

    def check(self, variant: Variant, message: Message, now: float) -> None:
        """Assert that a message that was just sent has a cause, and note its resources."""
        bounded = self.small and message.type_url not in FULL_STATE | {types.LISTENER} and not message.heartbeat
        if bounded:
            assert message.size <= LIMIT_BYTES + 400 or len(message.resources) <= 1
        if message.heartbeat:
            for name, version in message.renewed.items() if variant is Variant.DELTA else ():
                assert self.sent.get(name) == version, f"renews {name}, which it was not sent"
            return
        self._check_waiting(message, now)
        if variant is Variant.DELTA:
            self._check_delta(message)
        else:
            self._check_sotw(message)
        for name, held in message.resources.items():
            self.history[name].add(held)

    def _check_waiting(self, message: Message, now: float) -> None:
        overdue = policy_of(message.type_url).stage is not Stage.UNORDERED
        waiting = [nonce for nonce, sent in self.unacked.items() if not overdue or now < sent + HOLD_S]
        assert not waiting, f"{message.nonce} sent while {waiting} are un-ACKed"
        self.unacked[message.nonce] = now
        self.sent_as[message.nonce] = len(self.sent_as) + 1

    def _check_delta(self, message: Message) -> None:
        aliases = {name: set(held.text["aliases"]) for name, held in message.resources.items()}  # type: ignore[call-overload]
        for name, held in message.resources.items():
            asked = self.asked_all or ({name} | aliases[name]) & (self.asked | self.loose.keys())
            assert asked or self.sent.get(name) != held.version, f"{name} sent again without cause"
            self.sent[name] = held.version
        for name in message.removed:  # also names that the node once rejected: the client may have them after all
            self.sent.pop(name, None)
        told = set(message.names).union(*aliases.values(), message.renewed)
        self.asked -= told
        self.unanswered -= told
        self.asked_all = self.asked_all and self.small

    def _check_sotw(self, message: Message) -> None:
        bodies = {name: held.body for name, held in message.resources.items()}
        full = message.type_url in FULL_STATE
        # Other types can't report removals, but a name that was removed and added again is sent again.
        assert not full or self.asked_all or bodies != self.sent, "sent again without cause"
        self.sent = bodies if full else self.sent | bodies
        self.asked_all = self.unheard


class Client:
    """One node: its subscriptions, their streams, and its behaviour."""

    def __init__(self, number: int, cluster: str, variant: Variant, aggregated: bool) -> None:
        self.node = wire.Node(id=f"n{number}", cluster=cluster)
        self.variant, self.aggregated = variant, aggregated
        self.links: dict[str, Link] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self.audits: dict[str, Audit] = {}
        self.rejected_clusters: set[str] = set()
        self.slow = False
        self.connections = 0

    def link(self, hub: Hub, type_url: str) -> Link:
        """Return the stream for a type, and open it if needed."""
        of_type = "" if self.aggregated else type_url
        if of_type not in self.links:
            connection = f"{self.node.id}-{self.connections}"
            self.links[of_type] = Link(hub, self.variant, self.node, type_url=of_type, connection=connection)
        return self.links[of_type]

    def forget_nothings(self) -> None:
        """Forget types without subscriptions: a first request without names would be a wildcard on a new stream.
        Virtual hosts have no such wildcard.
        """
        for type_url, subscription in list(self.subscriptions.items()):
            if not subscription.wildcard and not subscription.names and type_url != types.VIRTUAL_HOST:
                del self.subscriptions[type_url], self.audits[type_url]

    @property
    def group_node(self) -> Node:
        """The node as rules see it."""
        return Node(id=self.node.id, cluster=self.node.cluster)

    def check(self, message: Message, now: float) -> None:
        """Assert that a message that was just sent has a cause; after clusters, their endpoints may be sent again."""
        audit = self.audits[message.type_url]
        audit.check(self.variant, message, now)
        if message.type_url == types.CLUSTER and not message.heartbeat and types.ENDPOINTS in self.audits:
            touched = {n for held in message.resources.values() for n in held.names(types.ENDPOINTS)}
            self.audits[types.ENDPOINTS].loosen(NAMES if audit.small else touched)

    def note_answer(self, message: Message, *, rejected: bool) -> None:
        """Note that a message was ACKed or NACKed; for clusters, this affects what else may be sent."""
        if message.type_url == types.CLUSTER:
            if rejected:
                self.rejected_clusters |= set(message.names)
            else:
                self.rejected_clusters -= set(message.names)
