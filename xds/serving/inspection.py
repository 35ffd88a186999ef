"""The clients with an id in this process, in full."""

from collections.abc import Callable
from dataclasses import replace
from itertools import islice

from xds.protocol.holders import Holders, HoldersQuery, find_holders
from xds.protocol.hub import Hub
from xds.protocol.inspection import (
    BODIES_BYTES_MAX,
    BODIES_MAX,
    NACK_SHOWN_MAX,
    RESOURCES_MAX,
    Held,
    InspectedClient,
    Inspection,
    Inspector,
    InspectQuery,
    NackSeen,
)
from xds.protocol.sessions import Session
from xds.protocol.status import NodesFound, NodesQuery, sessions_of

CLIENTS_MAX = 10
"""Clients with one id in one answer."""


def inspect(
    hub: Hub, query: InspectQuery, now: float, *, epoch_s: float, page: Callable[[NodesQuery], NodesFound]
) -> Inspection:
    """Return the clients with an id. ``page`` returns their summaries; ``epoch_s`` is the time of 1970 on the clock."""
    sessions = {id(each): each for each in sessions_of(hub.streams) if each.node.id == query.id}
    found = page(NodesQuery(id=query.id, limit=CLIENTS_MAX)).nodes
    clients = [
        _client(hub.inspector(session, now), session, query, InspectedClient(summary=each, gets_secrets=False))
        for each in found
        if (session := sessions.get(int(each.position.tie.rpartition(" ")[2], 16))) is not None
    ]
    nacks = tuple(
        NackSeen(
            at_ms=round((each.at - epoch_s) * 1_000),
            group=each.group,
            type_url=each.type_url,
            names=each.response.names[:NACK_SHOWN_MAX],
            count=each.response.total,
            message=each.message,
            nonce=each.nonce,
        )
        for each in hub.nacks.of_id(query.id)
    )
    return Inspection(clients=tuple(clients), nacks=nacks)


def holders(hub: Hub, query: HoldersQuery) -> Holders:
    """Return which clients of this process have which version of a resource."""
    return find_holders(sessions_of(hub.streams), query, hub.nacks.of)


def _client(inspector: Inspector, session: Session, query: InspectQuery, about: InspectedClient) -> InspectedClient:
    about = replace(about, gets_secrets=session.audience == session.group)
    if query.name:
        return replace(about, standings=(inspector.standing(query.type_url, query.name),))
    if query.differs:
        found = list(inspector.differences(query.type_url))
        shown = _bounded(found)
        return replace(about, differences=tuple(shown), cut=len(found) - len(shown))
    standings = inspector.standings(query.type_url)
    kept = tuple(islice(standings, RESOURCES_MAX))
    return replace(about, standings=kept, cut=sum(1 for _ in standings))


def _bounded(found: list[Held]) -> list[Held]:
    size, shown = 0, []
    for each in found[:BODIES_MAX]:
        size += sum(len(one.encoded) for one in (each.has, each.wanted) if one is not None)
        if size > BODIES_BYTES_MAX:
            break
        shown.append(each)
    return shown
