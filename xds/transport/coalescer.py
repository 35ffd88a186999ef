"""Merges changes that follow each other closely into one for the streams.

A change waits ``coalesce_s`` for another one, and at most ``coalesce_max_s`` in all. Changes of endpoints alone and
changes of group rules do not wait.
"""

import asyncio
from collections.abc import Callable

from xds.model.changeset import Applied
from xds.model.types import ENDPOINTS, LOCALITY_ENDPOINTS

AT_ONCE = frozenset((ENDPOINTS, LOCALITY_ENDPOINTS))


class Coalescer:
    """Merges applied changesets and hands them to ``publish``."""

    def __init__(self, publish: Callable[[Applied], None], *, coalesce_s: float, coalesce_max_s: float) -> None:
        self._publish = publish
        self._coalesce_s = coalesce_s
        self._coalesce_max_s = coalesce_max_s
        self._loop = asyncio.get_running_loop()
        self._waiting: Applied | None = None
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, applied: Applied) -> None:
        """Publish a change, now or merged with those that closely follow."""
        first = self._waiting is None
        self._waiting = applied if self._waiting is None else _merged(self._waiting, applied)
        types = {type_url for by_type in self._waiting.changed.values() for type_url in by_type}
        if self._waiting.regrouped or types <= AT_ONCE or self._coalesce_s == 0:
            self.flush()
            return
        now = self._loop.time()
        self._since = now if first else self._since
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(min(now + self._coalesce_s, self._since + self._coalesce_max_s), self.flush)

    @property
    def is_waiting(self) -> bool:
        """Whether a change waits to be merged with others."""
        return self._waiting is not None

    def flush(self) -> None:
        """Publish the waiting changes, if there are any."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._publish(waiting)


def _merged(first: Applied, second: Applied) -> Applied:
    changed = {group: dict(by_type) for group, by_type in first.changed.items()}
    for group, by_type in second.changed.items():
        own = changed.setdefault(group, {})
        for type_url, names in by_type.items():
            own[type_url] = own.get(type_url, frozenset()) | names
    return Applied(
        revision=second.revision,
        changed=changed,
        regrouped=first.regrouped or second.regrouped,
        parts=(*(first.parts or (first,)), second),
    )
