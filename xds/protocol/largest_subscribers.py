"""Which clients' subscribed names take most memory, where those of a process take too much together."""

from collections import Counter
from collections.abc import Iterable

from xds.protocol.client_state import ClientState
from xds.protocol.sessions import Session, Stream
from xds.protocol.subscription import Subscription


def largest_subscribers(streams: Iterable[Stream], bytes_wanted: int) -> list[Session]:
    """Return the sessions without which the names take at least ``bytes_wanted`` less, those with most first.

    Equal subscriptions are one object, so each session answers for its share of it. O(streams), and O(types) for each
    client state that differs.
    """
    sessions = dict.fromkeys(stream.session for stream in streams if stream.session and not stream.refusal)
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
    freed = 0.0
    for state in sorted(states, key=shares.__getitem__, reverse=True):
        for session in states[state]:
            if freed >= bytes_wanted:
                return chosen
            chosen.append(session)
            freed += shares[state]
    return chosen
