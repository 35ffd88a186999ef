"""Cohorts: streams with equal subscription, equal holdings and equal target, all answered with one response.

Nonce included, so that a response is encoded once and known again by its bytes. It does not know streams.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass

from xds.model.snapshot import Snapshot
from xds.model.view import View
from xds.protocol.diff import Exceptions
from xds.protocol.interest import Interest
from xds.protocol.response import Response

NAMES_BYTES_MAX = 16 * 1024 * 1024
"""What the names in the keys of responses may take: subscriptions, each once, what is asked for, and exceptions."""
AGE_MAX = 2
"""Large responses, or with large names, that nobody was given for so many periods are forgotten."""
LARGE_BYTES = 32 * 1024
"""Responses whose messages are so large are forgotten as soon as nobody new can need them."""


@dataclass(frozen=True, slots=True, eq=False)
class SentState:
    """All that a client was sent of one type: what it subscribed to, the view it was brought to, what differs."""

    interest: Interest
    view: View
    exceptions: Exceptions


class Cohorts:
    """The responses that were made lately, by what they depend on, so that a cohort shares one.

    Bounded by ``entries_max`` and ``bytes_max``: what was not used for longest is forgotten and made again if needed;
    what is large already once the view that it brings clients to is replaced. It also keeps what the last
    ``states_max`` SotW versions stood for: a client that comes back says no more.
    """

    __slots__ = (
        "_ages",
        "_bytes",
        "_entries",
        "_interests",
        "_large",
        "_last",
        "_names_bytes",
        "_nonce",
        "_states",
        "bytes_max",
        "entries_max",
        "names_bytes_max",
        "outdated_bytes",
        "states_max",
    )

    def __init__(
        self, *, entries_max: int = 4_096, bytes_max: int = 256 * 1024 * 1024, states_max: int = 1_024
    ) -> None:
        self._states: OrderedDict[tuple[str, str], SentState] = OrderedDict()
        self.states_max = states_max
        self._entries: OrderedDict[Hashable, Response] = OrderedDict()
        self._large: dict[View, set[Hashable]] = {}
        """By the view that they bring clients to, the keys of the large ones."""
        self.outdated_bytes = 0
        """The size, in all, of the large ones that were forgotten for their view."""
        self.entries_max = entries_max
        self.bytes_max = bytes_max
        self.names_bytes_max = NAMES_BYTES_MAX
        self._bytes = 0
        self._interests: dict[Interest, int] = {}
        """Of how many entries each subscription is a part."""
        self._names_bytes = 0
        self._ages: dict[Response, tuple[Hashable, int]] = {}
        """Of the large entries, the key, and how often ``grow_old`` was called since they were used."""
        self._nonce = 0
        self._last: dict[str, tuple[tuple[object, ...], Response, int]] = {}
        """By type, what ``get`` returned last, with its key and serial."""

    def next_nonce(self) -> str:
        """Return a nonce that no message of this process had before."""
        self._nonce += 1
        return format(self._nonce, "x")

    def again(self, type_url: str, key: tuple[object, ...], after: int) -> Response | None:
        """Return the type's response that ``get`` returned last, if the key is equal: nothing is hashed for that."""
        found = self._last.get(type_url)
        if found is None or found[2] <= after or found[0] != key:
            return None
        if found[1] in self._ages:
            self._ages[found[1]] = (key, 0)
        return found[1]

    def get(
        self, type_url: str, key: tuple[Hashable, ...], make: Callable[[], Response], *, after: int = 0
    ) -> Response:
        """Return the response for ``key``, made now if no stream needed it before.

        It is made anew if its nonce is not newer than ``after``: a stream must not see a nonce twice.
        """
        response = self._entries.get(key)
        if response is not None:
            if response.serial > after:
                self._entries.move_to_end(key)
                if response in self._ages:
                    self._ages[response] = (key, 0)
                self._last[type_url] = (key, response, response.serial)
                return response
            self._forget(key)
        response = self._entries[key] = make()
        self._last[type_url] = (key, response, response.serial)
        self._bytes += response.bytes_kept
        self._hold_names(key, response)
        if response.message_bytes >= LARGE_BYTES:
            self._large.setdefault(response.view, set()).add(key)
        while len(self._entries) > 1 and self._is_full:
            self._forget(next(iter(self._entries)))
        return response

    @property
    def _is_full(self) -> bool:
        too_many = len(self._entries) > self.entries_max
        return too_many or self._bytes > self.bytes_max or self._names_bytes > self.names_bytes_max

    def _hold_names(self, key: Hashable, response: Response) -> None:
        interest = response.interest
        users = self._interests.get(interest, 0)
        self._interests[interest] = users + 1
        self._names_bytes += response.names_bytes + (0 if users else interest.names_bytes)
        if max(response.message_bytes, response.names_bytes + interest.names_bytes) >= LARGE_BYTES:
            self._ages[response] = (key, 0)

    def grow_old(self) -> None:
        """Forget the large responses that no stream was given since this was called ``AGE_MAX`` times."""
        for response, (key, age) in list(self._ages.items()):
            self._ages[response] = (key, age + 1)
            if age >= AGE_MAX:
                self._forget(key)
                self._last = {type_url: last for type_url, last in self._last.items() if last[1] is not response}

    def outdate(self, before: Mapping[str, Snapshot], after: Mapping[str, Snapshot], groups: Iterable[str]) -> None:
        """Take note that clients of some groups are brought to other snapshots from now on, or to none.

        One whose order of changes lags behind may still be brought to an older view: that is made anew.
        """
        for group in groups:
            views = before[group].views if group in before else {}
            now = after[group].views if group in after else {}
            for type_url, view in views.items():
                if now.get(type_url) is not view:
                    self._outdate(view)

    def _outdate(self, view: View) -> None:
        last = self._last.get(view.type_url)
        if last is not None and last[1].view is view:
            del self._last[view.type_url]
        for key in tuple(self._large.get(view, ())):
            self.outdated_bytes += self._entries[key].message_bytes
            self._forget(key)

    def _forget(self, key: Hashable) -> None:
        response = self._entries.pop(key)
        self._bytes -= response.bytes_kept
        self._ages.pop(response, None)
        interest = response.interest
        self._names_bytes -= response.names_bytes
        self._interests[interest] -= 1
        if not self._interests[interest]:
            del self._interests[interest]
            self._names_bytes -= interest.names_bytes
        keys = self._large.get(response.view)
        if keys is not None:
            keys.discard(key)
            if not keys:
                del self._large[response.view]

    def remember(self, type_url: str, version: str, state: SentState) -> None:
        """Keep what a SotW version stands for."""
        self._states[type_url, version] = state
        self._states.move_to_end((type_url, version))
        if len(self._states) > self.states_max:
            self._states.popitem(last=False)

    def recall(self, type_url: str, version: str, interest: Interest) -> SentState | None:
        """Return what a version stands for, if it was sent lately to somebody of the same subscription.

        A version is a digest of the content: only who has that can name it, in whichever group it was sent.
        """
        state = self._states.get((type_url, version))
        return state if state is not None and state.interest is interest else None

    def __len__(self) -> int:
        return len(self._entries)
