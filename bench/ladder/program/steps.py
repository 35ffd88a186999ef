"""What a request, a new head, a deadline and a heartbeat make of a value. Pure: it reads no clock, counter or table."""

from collections.abc import Iterable, Sequence

from bench.ladder.program.content import ASSIGNMENTS, CLUSTERS, INDEX, LISTENERS, ROUTES, Head, Resource, View
from bench.ladder.program.values import NAMES, Draft, Memory, Step, TypeValue, Value
from bench.ladder.switches import ACK_WITH_NAMES, EVENTS, NACK, ORDER
from xds._generated.xds_wire_pb2 import DeltaDiscoveryRequest

USERS = (LISTENERS, ROUTES)
"""Types whose resources name clusters: on make before break they follow the clusters, and clusters go after them."""


def receive(memory: Memory, value: Value, request: DeltaDiscoveryRequest, now: float) -> Step:
    """Return what a request leads to. A type that isn't served leads nowhere."""
    index = INDEX.get(request.type_url)
    head = value.group.head
    draft = Draft(value, head)
    if index is None:
        return memory.finish(value, draft, content=False)
    content = False
    if request.response_nonce:
        content = _settle(draft, index, request)
    subscribe, unsubscribe = request.resource_names_subscribe, request.resource_names_unsubscribe
    first = draft.types[index] is None
    if (ACK_WITH_NAMES or not request.response_nonce) and (first or subscribe or unsubscribe):
        if first:
            _open(memory, draft, index, request)
        else:
            _resubscribe(memory, draft, index, subscribe, unsubscribe)
        content = True
    return memory.finish(value, draft, content=content, now=now)


def advance(memory: Memory, value: Value, now: float) -> Step | None:
    """Return what brings a client to its group's head, as far as it may go now; None where nothing is to be sent."""
    draft = Draft(value, value.group.head)
    if not _advance(draft):
        return None
    return memory.finish(value, draft, content=True, now=now)


def expire(memory: Memory, value: Value, now: float) -> Step:
    """Return what a deadline leads to: what the order waited for is not waited for any longer."""
    draft = Draft(value, value.group.head)
    for index in (CLUSTERS, *USERS):
        current = draft.types[index]
        if current is not None and current.flying:
            if EVENTS:
                draft.effects.append(("overdue", "", current.flying[0].nonce))
            draft.types[index] = current.but(flying=())
    _advance(draft)
    return memory.finish(value, draft, content=True, now=now)


def heartbeat(memory: Memory, value: Value, index: int, names: Iterable[str], now: float) -> Step | None:
    """Return the renewal of resources with a TTL; None where a response of the type is in flight, which renews too."""
    current = value.types[index]
    if current is None or current.flying:
        return None
    resources = [found for name in names if (found := current.sent.resources.get(name)) is not None]
    draft = Draft(value, value.group.head)
    draft.send(index, resources, (), bare=True)
    return memory.finish(value, draft, content=True, now=now)


# --- Requests ------------------------------------------------------------------------------------------------------


def _settle(draft: Draft, index: int, request: DeltaDiscoveryRequest) -> bool:
    """Take what was answered out of what is in flight; say whether that made content due."""
    current = draft.types[index]
    if current is None:
        return False
    flights = [flight for flight in current.flying if flight.nonce == request.response_nonce]
    if not flights:
        return False  # stale, or made up: no error (xDS protocol, "ACK and NACK semantics summary")
    (flight,) = flights
    flying = tuple(other for other in current.flying if other is not flight)
    after = current.but(flying=flying)
    if NACK:
        if request.HasField("error_detail"):
            after.unsure = current.unsure | frozenset(flight.names)
            draft.own = True
            draft.effects.append(("nack", flight.nonce, request.error_detail.message[:4_096]))
        elif current.unsure:
            after.unsure = current.unsure - frozenset(flight.names)
            draft.own = bool(after.unsure) or any(
                other is not None and other is not current and other.unsure for other in draft.types
            )
    draft.types[index] = after
    if not ORDER or index == ASSIGNMENTS or flying:
        return False
    return _follow(draft, index, flight.head)


def _follow(draft: Draft, index: int, head: Head) -> bool:
    """Send what waited for an answer: listeners and routes of the head whose clusters are there now, or removals."""
    sent = False
    if index == CLUSTERS:
        for user in USERS:
            current = draft.types[user]
            if current is None or current.flying:
                continue
            if current.kept or current.sent.number < head.views[user].number:
                sent |= _bring(draft, user, head.views[user])
    return sent | _break(draft)


def _open(memory: Memory, draft: Draft, index: int, request: DeltaDiscoveryRequest) -> None:
    """Answer the first request of a type: all that is asked for, less what the client has (initial versions)."""
    asked, had = frozenset(request.resource_names_subscribe), request.initial_resource_versions
    wildcard = not asked or "*" in asked
    interest = memory.interest(wildcard, asked - {"*"})
    view = draft.head.views[index]
    draft.types[index] = TypeValue(interest, view, ())
    names = view.resources if wildcard else request.resource_names_subscribe
    resources = _found(view, (name for name in names if name != "*"), had)
    removed = [name for name in had if interest.has(name) and name not in view.resources]
    if index in (CLUSTERS, ASSIGNMENTS):
        removed += [name for name in interest.names if name not in view.resources and name not in had]
    if resources or removed or not had:
        _deliver(draft, index, resources, removed)


def _resubscribe(
    memory: Memory, draft: Draft, index: int, subscribe: Sequence[str], unsubscribe: Sequence[str]
) -> None:
    """Answer a change of names: each name that is asked for goes out, changed or not (spec: a MUST)."""
    current = draft.types[index]
    assert current is not None
    old = current.interest
    gone = frozenset(unsubscribe)
    wildcard = (old.wildcard or "*" in subscribe) and "*" not in gone
    interest = memory.interest(wildcard, (old.names | frozenset(subscribe)) - gone - {"*"})
    view = draft.head.views[index]
    held = _is_held(draft, index)
    if held:
        view = current.sent
    changed = (
        () if held else [n for n in view.changed_since(current.sent) if interest.has(n) and _differs(n, current, view)]
    )
    asked = dict.fromkeys((*(name for name in subscribe if name != "*"), *changed))
    if wildcard:
        asked |= dict.fromkeys(name for name in gone if name != "*")
        if not old.wildcard:
            asked |= dict.fromkeys(view.resources)
    draft.types[index] = current.but(interest=interest, sent=view)
    resources = _found(view, asked, None)
    removed = [name for name in asked if name not in view.resources]
    if index == ROUTES and not wildcard:  # Envoy would wait for ever for one that it is told is not there
        removed = [name for name in removed if name in old.names]
    if resources or removed:
        _deliver(draft, index, resources, removed)


# --- A new head ----------------------------------------------------------------------------------------------------


def _advance(draft: Draft) -> bool:
    sent = False
    for index, current in enumerate(draft.types):
        if current is None or current.flying:
            continue  # one response a type: what changes meanwhile goes with the next
        view = draft.head.views[index]
        waiting = ORDER and index in USERS and bool(current.kept)
        if (waiting or view is not current.sent) and not _is_held(draft, index):
            sent |= _bring(draft, index, view)
    if ORDER:
        sent |= _break(draft)
    return sent


def _is_held(draft: Draft, index: int) -> bool:
    """Say whether listeners and routes wait for clusters that the client has not answered."""
    if not ORDER or index not in USERS:
        return False
    clusters = draft.types[CLUSTERS]
    return clusters is not None and bool(clusters.flying)


def _bring(draft: Draft, index: int, view: View) -> bool:
    """Bring a type to a view, and say whether that took a response."""
    current = draft.types[index]
    assert current is not None
    interest = current.interest
    names: Iterable[str] = view.changed_since(current.sent)
    if ORDER and current.kept:
        names = dict.fromkeys((*names, *current.kept))
    changed = [name for name in names if interest.has(name) and _differs(name, current, view)]
    if ORDER and index in USERS:
        changed, kept = _without_unready(draft, current, view, changed)
        draft.types[index] = current = current.but(kept=kept)
    removed = [name for name in changed if name not in view.resources]
    kept_clusters = NAMES
    if ORDER and removed:
        if index == ASSIGNMENTS:  # Envoy unsubscribes from them once their cluster is gone
            clusters = draft.types[CLUSTERS]
            waiting = clusters.kept if clusters is not None else NAMES
            removed = [name for name in removed if name not in waiting]
        elif index == CLUSTERS and any(draft.types[user] is not None for user in USERS):
            kept_clusters, removed = frozenset(removed), []
    resources = _found(view, changed, None)
    after = current.but(sent=view)
    if ORDER and index == CLUSTERS:
        after.kept = (current.kept | kept_clusters) - frozenset(resource.name for resource in resources)
    draft.types[index] = after
    if not (resources or removed):
        return False
    _deliver(draft, index, resources, removed)
    if ORDER and index == CLUSTERS:
        _warm(draft, [resource.name for resource in resources])
    return True


def _warm(draft: Draft, clusters: list[str]) -> None:
    """Send the endpoints of clusters that were sent, changed or not: Envoy warms a cluster on nothing else."""
    current = draft.types[ASSIGNMENTS]
    if current is None:
        return
    view = draft.head.views[ASSIGNMENTS]
    names = [name for name in view.changed_since(current.sent) if current.interest.has(name)]
    changed = [name for name in names if _differs(name, current, view)]
    asked = dict.fromkeys((*(name for name in clusters if current.interest.has(name)), *changed))
    resources = _found(view, asked, None)
    draft.types[ASSIGNMENTS] = current.but(sent=view)
    if resources:
        draft.send(ASSIGNMENTS, resources, ())


def _without_unready(
    draft: Draft, current: TypeValue, view: View, changed: list[str]
) -> tuple[list[str], frozenset[str]]:
    """Hold back routes that newly name a cluster that the client rejected; return what may go, and what may not."""
    clusters = draft.types[CLUSTERS]
    if not NACK or clusters is None or not clusters.unsure:
        return changed, NAMES
    ready, held = [], set()
    for name in changed:
        new, old = view.resources.get(name), current.sent.resources.get(name)
        before = old.refers if old is not None and name not in current.kept else ()
        if new is not None and any(one in clusters.unsure and one not in before for one in new.refers):
            held.add(name)
        else:
            ready.append(name)
    return ready, frozenset(held)


def _break(draft: Draft) -> bool:
    """Remove clusters that are gone, once nothing that the client was sent can still use them."""
    clusters = draft.types[CLUSTERS]
    if clusters is None or not clusters.kept or clusters.flying:
        return False
    used: set[str] = set()
    for user in USERS:
        current = draft.types[user]
        if current is None:
            continue
        if current.flying or current.sent is not draft.head.views[user]:
            return False  # the old ones may be in use until this is answered
        for name, resource in current.sent.resources.items():
            if current.interest.has(name):
                used.update(resource.refers)
    gone = sorted(clusters.kept - used)
    if not gone:
        return False
    draft.types[CLUSTERS] = clusters.but(kept=clusters.kept - frozenset(gone))
    draft.send(CLUSTERS, [], gone)
    return True


def _deliver(draft: Draft, index: int, resources: list[Resource], removed: Iterable[str]) -> None:
    draft.send(index, resources, removed)
    if ORDER and index != ASSIGNMENTS:
        draft.arms = True


def _differs(name: str, current: TypeValue, view: View) -> bool:
    old, new = current.sent.resources.get(name), view.resources.get(name)
    if old is None or new is None:
        return old is not new or (ORDER and name in current.kept)
    return old.version != new.version or (ORDER and name in current.kept)


def _found(view: View, names: Iterable[str], had: "object | None") -> list[Resource]:
    versions: dict[str, str] = dict(had) if had else {}  # type: ignore[call-overload]
    resources = []
    for name in names:
        resource = view.resources.get(name)
        if resource is not None and versions.get(name) != resource.version:
            resources.append(resource)
    return resources
