"""The limits that are counted when they are reached, and their counts (``xds_limit_hits_total``).

docs/limits.md describes each of them, and the limits that are constants.
"""

from collections.abc import Iterable, Mapping

METERED = (
    *("streams", "waiting", "wait", "memory", "memory_changes"),
    *("connections_xds", "connections_admin", "requests_admin", "push_streams", "sign_ins", "pending_changes"),
    *("watches", "intake", "body", "body_timeout", "message_timeout", "headers_timeout", "unread_timeout"),
    *("handshake_timeout", "idle_timeout", "keepalive_timeout", "ping_interval", "age"),
    *("message", "headers", "connection_streams", "chores", "unread_answers", "assembly", "waiting_bytes", "replies"),
    *("node", "subscriptions", "names", "worker_names", "types", "hold_timeout", "nacked_nodes", "draining_nodes"),
    *("resource", "known_nodes"),
)
"""The labels of the counted limits."""


class LimitHits:
    """How often each limit was reached in this process. Every label is there from the start, with 0."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts = dict.fromkeys(METERED, 0)

    def add(self, limit: str) -> None:
        """Count that a limit was reached. "" is none; other labels than those of ``METERED`` are a bug."""
        if limit:
            self._counts[limit] += 1

    def counts(self) -> dict[str, int]:
        """Return a copy of the counts, by label."""
        return dict(self._counts)


def summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the sums of several processes' counts."""
    total = dict.fromkeys(METERED, 0)
    for each in counts:
        for label, count in each.items():
            total[label] += count
    return total
