"""Which clients have which version of one resource."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from xds.model.groups import Node
from xds.protocol.client_state import ClientState
from xds.protocol.inspection import NackRecord, accepted_version
from xds.protocol.sessions import Session

EXAMPLES_MAX = 5
"""Ids of nodes that are told for each version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldersQuery:
    """Which resource is asked for, and of the clients of which groups: those that have its group or extend it."""

    type_url: str
    name: str
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """The clients of a group that have accepted the same version: "" for none, None if that is not known."""

    group: str
    version: str | None
    clients: int
    examples: tuple[str, ...]
    """The ids of some of their nodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holders:
    """Which clients have which version, by group and version."""

    holdings: tuple[Holding, ...] = ()
    missing_workers: tuple[str, ...] = ()
    missing_replicas: tuple[str, ...] = ()

    @classmethod
    def joined(cls, several: "Iterable[Holders]") -> "Holders":
        """Return what several processes have found."""
        found = list(several)
        tally = _Tally()
        for each in (holding for holders in found for holding in holders.holdings):
            tally.add(each.group, each.version, each.clients, each.examples)
        return cls(
            holdings=tally.holdings(),
            missing_workers=tuple(sorted({name for each in found for name in each.missing_workers})),
            missing_replicas=tuple(sorted({name for each in found for name in each.missing_replicas})),
        )


class _Tally:
    def __init__(self) -> None:
        self._found: dict[tuple[str, str | None], tuple[int, tuple[str, ...]]] = {}

    def add(self, group: str, version: str | None, clients: int, examples: tuple[str, ...]) -> None:
        count, known = self._found.get((group, version), (0, ()))
        if len(known) < EXAMPLES_MAX:
            known = (*known, *examples)[:EXAMPLES_MAX]
        self._found[group, version] = count + clients, known

    def holdings(self) -> tuple[Holding, ...]:
        found = sorted(self._found.items(), key=lambda item: (item[0][0], item[0][1] or ""))
        return tuple(
            Holding(group=group, version=version, clients=clients, examples=examples)
            for (group, version), (clients, examples) in found
        )


def find_holders(
    sessions: Iterable[Session], query: HoldersQuery, nacks_of: Callable[[Node], Iterable[NackRecord]]
) -> Holders:
    """Return which of the clients have which version. ``nacks_of`` returns the NACKs of a node, newest first.

    O(sessions); what they have is worked out once for each client state.
    """
    groups = frozenset(query.groups)
    known: dict[ClientState, str | None] = {}
    tally = _Tally()
    for session in sessions:
        if session.group not in groups:
            continue
        state = session.client_state
        if state in known:
            version = known[state]
        else:
            version, is_shared = _held_by(session, query, nacks_of)
            if is_shared:
                known[state] = version
        tally.add(session.group, version, 1, (session.node.id,))
    return Holders(holdings=tally.holdings())


def _held_by(
    session: Session, query: HoldersQuery, nacks_of: Callable[[Node], Iterable[NackRecord]]
) -> tuple[str | None, bool]:
    """Return the version that a client has, and whether all clients in its state have it."""
    is_shared = True
    for state in session.client_state.types:
        if state.type_url != query.type_url:
            continue
        is_rejected = query.name in state.nacked_names or query.name in state.nacked_removals
        is_shared = is_shared and not is_rejected
        version, _ = accepted_version(state, query.name, nacks_of(session.node) if is_rejected else ())
        if version != "":
            return version, is_shared
    return "", is_shared
