"""Which messages were looked at before and had nothing to be found: an endpoint that is pushed again is passed over.

Endpoints are pushed all the time, each time with all their neighbours, of which most are as they were.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from xds.schema.decode import Findings
from xds.schema.paths import Trail

REMEMBERED = frozenset({"envoy.config.endpoint.v3.LbEndpoint"})
"""Types of which many are looked at again, as items of lists."""

ENTRIES_MAX = 32_768
BYTES_MAX = 512
"""The largest message that is remembered: all of them take up to 20 MB, and some 4 as endpoints usually are."""

Visit: TypeAlias = Callable[[Any, Trail, Findings], None]


def remembering(visit: Visit) -> Visit:
    """Return a visit that does as the given one, and does nothing for what that has neither noted on nor changed."""
    clean: set[bytes] = set()

    def visit_once(message: Any, trail: Trail, found: Findings) -> None:
        data = message.SerializeToString(deterministic=True)
        if data in clean:
            return
        before = len(found.problems), len(found.references), len(found.bytes_trails)
        visit(message, trail, found)
        after = len(found.problems), len(found.references), len(found.bytes_trails)
        # What is allowed for one caller is not for the next.
        if before != after or found.allow_unknown_types or len(data) > BYTES_MAX:
            return
        if message.SerializeToString(deterministic=True) == data:
            if len(clean) >= ENTRIES_MAX:
                clean.clear()
            clean.add(data)

    return visit_once
