"""Which clients' subscribed names take most memory, where those of a process take too much together."""

from collections import Counter
from collections.abc import Iterable

from xds.protocol.client_state import ClientState
from xds.protocol.sessions import Session, Stream
from xds.protocol.subscription import Subscription


def largest_subscribers(streams: Iterable[Stream], bytes_wanted: int) -> list[Session]:
    """Return the sessions to end so that the names take ``bytes_wanted`` less, those with most first.

    Sessions that are being ended count as freed. Sessions with equal subscriptions share one object, and each counts
    with its share of it. O(streams), and O(types) for each client state that differs.
    """
    sessions = dict.fromkeys(stream.session for stream in streams if stream.session)
    states: dict[ClientState, list[Session]] = {}
    for session in sessions:
        states.setdefault(session.client_state, []).append(session)
    users: Counter[Subscription] = Counter()
    for state, alike in states.items():
        for each in state.types:
            users[each.subscription] += len(alike)
    shares = {
        state: sum(each.subscription.names_bytes / users[each.subscription] for each in state.types) for state in states
    }
    chosen: list[Session] = []
    freed = sum(shares[session.client_state] for session in sessions if _is_ending(session))
    for state in sorted(states, key=shares.__getitem__, reverse=True):
        for session in states[state]:
            if freed >= bytes_wanted:
                return chosen
            if not _is_ending(session):
                chosen.append(session)
                freed += shares[state]
    return chosen


def _is_ending(session: Session) -> bool:
    return session.streams[0].refusal is not None
