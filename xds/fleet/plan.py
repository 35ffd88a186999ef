"""The subscriptions of every sidecar, in Envoy's order."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from xds.model.types import CLUSTER, ENDPOINTS, LISTENER, ROUTE, RUNTIME, type_url_of

DEFAULT_TYPES = ("clusters", "endpoints", "listeners", "routes")
_ORDER = (RUNTIME, CLUSTER, ENDPOINTS, LISTENER, ROUTE)
_AT_ONCE = frozenset((RUNTIME, CLUSTER, ENDPOINTS))
"""Types that Envoy requests before its clusters are warm; the others wait for that, as its listeners do."""
_LEARNED = {ENDPOINTS: CLUSTER, ROUTE: LISTENER}
"""Types whose names come from another type's resources."""


@dataclass(frozen=True, slots=True)
class SubscriptionPlan:
    """The types in the order of their requests, each subscribed to by wildcard or by names.

    ``explicit`` names are requested in addition to those that clusters and listeners refer to. A type without names
    from either is subscribed to by wildcard.
    """

    types: tuple[str, ...]
    explicit: Mapping[str, frozenset[str]]
    sotw: bool = False
    index: Mapping[str, int] = field(init=False, compare=False)
    wildcard: tuple[bool, ...] = field(init=False, compare=False)
    at_once: tuple[bool, ...] = field(init=False, compare=False)
    source: tuple[int | None, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        index = {type_url: at for at, type_url in enumerate(self.types)}
        source = tuple(index.get(_LEARNED.get(type_url, "")) for type_url in self.types)
        wildcard = tuple(
            type_url not in self.explicit and type_url not in _LEARNED and from_type is None
            for type_url, from_type in zip(self.types, source, strict=True)
        )
        at_once = tuple(type_url in _AT_ONCE for type_url in self.types)
        for name, value in (("index", index), ("source", source), ("wildcard", wildcard), ("at_once", at_once)):
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, types: Iterable[str], subscribe: Mapping[str, Iterable[str]], *, sotw: bool) -> "SubscriptionPlan":
        """Make a plan of short type names or type URLs. Raises ValueError saying what can't be subscribed to."""
        wanted = {type_url_of(word) for word in types}
        explicit = {type_url_of(word): frozenset(names) for word, names in subscribe.items()}
        if not wanted:
            raise ValueError("no types; name one at least, as clusters")
        for type_url, names in explicit.items():
            if type_url not in wanted:
                raise ValueError(f"{type_url} has names to subscribe to, but is not among the types; add it there")
            if not names:
                raise ValueError(f"{type_url} has no names; write routes=NAME,NAME")
        for type_url, source in _LEARNED.items():
            if type_url in wanted and source not in wanted and type_url not in explicit:
                raise ValueError(
                    f"{type_url} is asked for by names, which {source} would give; add that type, or name them"
                )
        known = [type_url for type_url in _ORDER if type_url in wanted]
        return cls((*known, *sorted(wanted - set(_ORDER))), explicit, sotw)
