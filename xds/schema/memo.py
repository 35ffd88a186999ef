"""Cache of messages that were checked before without any finding, so that an endpoint is checked once.

Endpoints are pushed frequently, each time with all endpoints of their cluster, most of them unchanged.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from xds.schema.decode import Findings
from xds.schema.paths import Trail

CACHED_TYPES = frozenset({"envoy.config.endpoint.v3.LbEndpoint"})
"""Message types, as items of lists, that are cached."""

ENTRIES_MAX = 32_768
BYTES_MAX = 512
"""The largest message that is cached. A full cache takes up to 20 MB, and about 4 MB with usual endpoints."""

Visit: TypeAlias = Callable[[Any, Trail, Findings], None]


def cached_visit(visit: Visit) -> Visit:
    """Return a visit that skips messages in which ``visit`` found and changed nothing before."""
    clean: set[bytes] = set()

    def visit_unless_cached(message: Any, trail: Trail, found: Findings) -> None:
        data = message.SerializeToString(deterministic=True)
        if data in clean:
            return
        before = found.added, len(found.references)
        visit(message, trail, found)
        after = found.added, len(found.references)
        # Unknown types that one caller allows may not be allowed for the next.
        if before != after or found.allow_unknown_types or len(data) > BYTES_MAX:
            return
        if message.SerializeToString(deterministic=True) == data:
            if len(clean) >= ENTRIES_MAX:
                clean.clear()
            clean.add(data)

    return visit_unless_cached
