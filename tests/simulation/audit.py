"""Checks every message that a server sends on a stream against the rules and the messages before it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from simulation.content import Content, Key
from simulation.wire_format import Message, Request
from support.encoded import CDS, EDS, LDS, RDS, short

from xds._generated import xds_wire_pb2 as wire
from xds.protocol.policy import Variant

if TYPE_CHECKING:
    from simulation.network import Server, SimulatedLine

FULL_STATE = (CDS, LDS)


@dataclass
class Sent:
    """A message that is not answered yet."""

    at: float
    names: dict[str, Content | None]


@dataclass
class TypeAudit:
    """One type on a stream. ``names`` None is the wildcard; ``rejected``: rejected versions, until they change."""

    names: set[str] | None
    unanswered: dict[str, Sent] = field(default_factory=dict)
    rejected: dict[str, Content] = field(default_factory=dict)
    touched_at: dict[str, float] = field(default_factory=dict)
    """Name to the time at which it was requested again, or clusters that use it were sent: it may be sent again."""
    sent: dict[str, tuple[float, Content]] = field(default_factory=dict)
    """Name to when it was sent last, answered or not, and what it was."""
    last: str = ""
    """The last nonce."""


@dataclass
class SessionAudit:
    """The data that all streams of a connection share: the groups of its node so far, and their resources."""

    groups: set[str] = field(default_factory=set)
    seen: dict[str, set[Content]] = field(default_factory=dict)

    def note(self, state: Mapping[Key, Content], group: str) -> None:
        """Record the resources of the node's group from now on."""
        self.groups.add(group)
        for (type_url, _), content in state.items():
            self.seen.setdefault(type_url, set()).add(content)


class StreamAudit:
    """One stream from the server's side. ``check`` raises AssertionError for a message that must not be sent."""

    def __init__(self, server: "Server", line: "SimulatedLine") -> None:
        self.server, self.line = server, line
        self.types: dict[str, TypeAudit] = {}
        self.nonces: set[str] = set()
        self.session = server.sessions.setdefault((line.envoy.number, line.connection.name), SessionAudit())
        self.note_state(server.published.get(server.group_of(line.envoy), {}), server.group_of(line.envoy))

    def note_state(self, state: Mapping[Key, Content], group: str) -> None:
        """Record the resources of the stream's group from now on."""
        self.session.note(state, group)
        for type_url, audit in self.types.items():
            for name in [name for name, content in audit.rejected.items() if state.get((type_url, name)) != content]:
                del audit.rejected[name]
            for sent in audit.unanswered.values():
                self._note_replaced(type_url, sent, state)

    def _note_replaced(self, type_url: str, sent: Sent, state: Mapping[Key, Content]) -> None:
        """Record what of a message the group has in another version, or not: if it comes back it is sent once more."""
        known = self.types[type_url]
        replaced = [name for name, content in sent.names.items() if state.get((type_url, name)) != content]
        known.touched_at |= dict.fromkeys(replaced, self.server.now)

    # --- Requests --------------------------------------------------------------------------------------------------

    def note_request(self, request: Request) -> None:
        """Record a request that reached the server."""
        known = self.types.get(request.type_url)
        if isinstance(request, wire.DeltaDiscoveryRequest):
            adding, dropping = set(request.resource_names_subscribe), set(request.resource_names_unsubscribe)
            if known is None:
                known = self.types[request.type_url] = TypeAudit(adding or None)
                self._note_first(request.type_url)
            elif known.names is not None:
                known.names = (known.names | adding) - dropping
            for name in adding | dropping:
                known.rejected.pop(name, None)
            known.touched_at |= dict.fromkeys(adding, self.server.now)
        else:
            names = set(request.resource_names)
            if known is None:
                known = self.types[request.type_url] = TypeAudit(names or None)
            elif known.names is not None:
                if known.names != names or not request.response_nonce:
                    known.rejected.clear()
                    known.touched_at |= dict.fromkeys(names, self.server.now)
                # A server may ignore names with an older nonce: the client sends them again with the newest.
                is_old = request.response_nonce != known.last
                known.names = known.names | names if is_old else names
        self._settle(known, request)

    def _note_first(self, type_url: str) -> None:
        """Allow endpoints that were requested before any clusters to be sent again with the clusters."""
        if type_url == CDS and (known := self.types.get(EDS)) is not None:
            known.rejected.clear()
            known.touched_at |= dict.fromkeys(known.names or (), self.server.now)

    def _settle(self, known: TypeAudit, request: Request) -> None:
        """Record the answer in a request, if it is one."""
        sent = known.unanswered.pop(request.response_nonce, None)
        if sent is None:
            return
        if isinstance(request, wire.DiscoveryRequest):  # it also answers the messages before it
            for nonce in [nonce for nonce, other in known.unanswered.items() if other.at <= sent.at]:
                del known.unanswered[nonce]
        if request.HasField("error_detail"):
            state = self.server.published.get(self.server.group_of(self.line.envoy), {})
            # What the message does not name is sent once more: new clusters at once, others with the next response.
            blamed = re.split(r"[\s,:]+", request.error_detail.message)
            for name, content in sent.names.items():
                if name not in blamed:
                    continue
                changed = state.get((request.type_url, name)) != content or known.touched_at.get(name, 0.0) >= sent.at
                if content is not None and not changed:
                    known.rejected[name] = content
        else:
            for name in sent.names:
                known.rejected.pop(name, None)

    # --- Responses -------------------------------------------------------------------------------------------------

    def check(self, message: Message) -> Message:
        """Check a message against the rules and record it; return it with the clusters that its client may lack."""
        known = self.types.get(message.type_url)
        about = f"{self.line.envoy.node_id} is sent {short(message.type_url)} {message.nonce}"
        assert known is not None, f"{about}, a type that it did not ask for"
        assert message.nonce not in self.nonces, f"{about}, a nonce that its stream had before"
        self.nonces.add(message.nonce)
        now, hold_s = self.server.now, self.server.ordering.hold_timeout_s
        waiting = [nonce for nonce, sent in known.unanswered.items() if now < sent.at + hold_s]
        assert not waiting, f"{about} while {waiting} wait for an answer"
        self._check_names(message, known, about)
        self._check_content(message, about)
        self._check_rejected(message, known, about)
        for name in [*message.resources, *message.removed]:
            known.rejected.pop(name, None)  # once another version is sent, this one may be sent again
        known.last = message.nonce
        names: dict[str, Content | None] = {name: held.content for name, held in message.resources.items()}
        known.unanswered[message.nonce] = sent = Sent(now, names | dict.fromkeys(message.removed))
        known.sent |= {name: (now, held.content) for name, held in message.resources.items()}
        self._note_replaced(
            message.type_url, sent, self.server.published.get(self.server.group_of(self.line.envoy), {})
        )
        if message.type_url == CDS:
            self._forgive_endpoints(message)
        if message.type_url in (LDS, RDS):
            return replace(message, unsure=self._unanswered_clusters())
        return message

    def _check_names(self, message: Message, known: TypeAudit, about: str) -> None:
        if (
            known.names is None or self.server.small
        ):  # a part of a split response may be sent after the client unsubscribed from its names
            return
        # A removal is also sent for names that the node once rejected: it may have them without reporting them.
        foreign = set(message.resources) - known.names
        assert not foreign, f"{about} with {sorted(foreign)}, to which it has not subscribed"

    def _check_content(self, message: Message, about: str) -> None:
        state = self.server.published.get(self.server.group_of(self.line.envoy), {})
        settled = not self.server.small and not self.server.has_unpublished
        fresh = settled and self.line.envoy.delta and message.type_url not in (LDS, RDS)
        sent = self.server.world.sent.setdefault(self.line.envoy.number, set())
        again = not self.line.envoy.delta and message.type_url in FULL_STATE
        for held in message.resources.values():
            content = held.content
            if again and content in sent:
                continue  # a cluster that no longer exists, but that the client may still use
            had = (
                not self.line.envoy.delta and content in sent
            )  # on SotW the reported version identifies the resources that it has
            sent.add(content)
            is_kept = had and message.type_url == EDS  # as long as its cluster, which may be sent again
            assert is_kept or content.group in self.session.groups, f"{about} with {content} of group {content.group}"
            assert had or content in self.session.seen.get(message.type_url, ()), (
                f"{about} with {content}, which its group never had"
            )
            if fresh and (message.type_url != EDS or content.key in state):  # endpoints stay as long as their clusters
                assert state.get(content.key) == content, f"{about} with {content}, which is an older one"

    def _check_rejected(self, message: Message, known: TypeAudit, about: str) -> None:
        if self.line.envoy.habits.variant is Variant.SOTW and message.type_url in FULL_STATE:
            return
        again = [str(h.content) for name, h in message.resources.items() if known.rejected.get(name) == h.content]
        assert not again, f"{about} with {again}, which it rejected"

    def _forgive_endpoints(self, message: Message) -> None:
        """Allow repeated endpoints of sent clusters: Envoy needs them to warm the clusters.

        See docs/envoy-behaviour.md#warming.
        """
        for line in self._lines():
            if (known := line.audit.types.get(EDS)) is not None:
                for held in message.resources.values():
                    for name in held.content.names(EDS):
                        known.rejected.pop(name, None)
                        known.touched_at[name] = self.server.now

    def _lines(self) -> list["SimulatedLine"]:
        """Return the streams of the same session."""
        mine = self.line
        lines = self.server.lines.values()
        return [line for line in lines if line.envoy is mine.envoy and line.connection is mine.connection]

    def _unanswered_clusters(self) -> frozenset[str]:
        """Return the clusters that routes no longer wait for because the client did not answer in time."""
        now, hold_s = self.server.now, self.server.ordering.hold_timeout_s
        found: set[str] = set()
        for line in self._lines():
            for type_url in (CDS, EDS) if self.line.envoy.per_type else (CDS,):
                if (known := line.audit.types.get(type_url)) is None:
                    continue
                late = [sent for sent in known.unanswered.values() if now >= sent.at + hold_s]
                if (
                    late and self.server.small
                ):  # the wait for all parts of a split response ends with the wait for the first
                    late = list(known.unanswered.values())
                names = {name for sent in late for name in sent.names}
                found |= self._clusters_with(names) if type_url == EDS else names
        if self.line.envoy.per_type:
            found |= self._clusters_without_endpoints(now - hold_s)
        if now >= self.line.opened_at + hold_s:
            # Envoy does not request clusters while they warm, and some clients request none: the wait for them ends.
            found |= self.line.envoy.warming_at_return
            if not any(CDS in line.audit.types for line in self._lines()):
                found |= {content.name for content in self.session.seen.get(CDS, ())}
        return frozenset(found)

    def _clusters_without_endpoints(self, before: float) -> set[str]:
        """Return the clusters that were sent so early, and whose endpoints the client has not answered yet.

        The wait for these endpoints counts from when the clusters were sent, however late the client answers those.
        """
        audits = [line.audit.types for line in self._lines()]
        of_endpoints = [types[EDS] for types in audits if EDS in types]
        asked = {name for known in of_endpoints for name in known.names or ()}
        unanswered = {name for known in of_endpoints for sent in known.unanswered.values() for name in sent.names}
        of_clusters = [types[CDS] for types in audits if CDS in types]
        return {
            name
            for known in of_clusters
            for name, (at, content) in known.sent.items()
            if at <= before and not content.names(EDS) <= asked - unanswered
        }

    def _clusters_with(self, endpoints: set[str]) -> set[str]:
        return {c.name for c in self.session.seen.get(CDS, ()) if c.names(EDS) & endpoints}
