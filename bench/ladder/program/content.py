"""Resources, the views of them that each change replaces, and the log that says in what two views differ. Pure."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from immutables import Map

from xds.fleet.wire import length_field
from xds.model.types import CLUSTER, ENDPOINTS, LISTENER, ROUTE

TYPES = (CLUSTER, ENDPOINTS, LISTENER, ROUTE)
CLUSTERS, ASSIGNMENTS, LISTENERS, ROUTES = range(4)
INDEX = {type_url: index for index, type_url in enumerate(TYPES)}
LOG_MAX = 1_000


@dataclass(slots=True, eq=False)
class Resource:
    """A resource as responses have it. ``refers`` are the clusters that it names."""

    name: str
    version: str
    encoded: bytes
    refers: tuple[str, ...] = ()
    ttl_s: float = 0.0
    field: bytes = b""
    bare: bytes = b""
    """The resource as a field of a response, and the same without its body, as a heartbeat has it."""

    def __post_init__(self) -> None:
        self.field = length_field(2, self.encoded)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """All resources of a type at a moment. ``log`` has the last changes of all views of the type."""

    number: int
    resources: "Map[str, Resource]"
    log: "deque[tuple[int, tuple[str, ...]]]"
    with_ttl: "Map[str, float]"

    def changed_since(self, other: "View") -> Iterable[str]:
        """Return the names in which the views can differ, at least: the resources themselves decide."""
        if self is other:
            return ()
        log = self.log
        if log and log[0][0] <= other.number + 1:
            names: dict[str, None] = {}
            for number, changed in reversed(log):
                if number <= other.number:
                    break
                names.update(dict.fromkeys(changed))
            return names
        return {**dict.fromkeys(other.resources), **dict.fromkeys(self.resources)}


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """What a group serves at a moment; each change makes another one, which shares the views that it left alone."""

    number: int
    views: tuple[View, ...]

    def after(self, changes: Iterable[tuple[int, str, Resource | None]]) -> tuple["Head", list[list[str]]]:
        """Return the next head, and the names that changed, by type."""
        number, views = self.number + 1, list(self.views)
        names: list[list[str]] = [[] for _ in TYPES]
        for index, name, resource in changes:
            view = views[index]
            resources, with_ttl = view.resources, view.with_ttl
            if resource is not None:
                resources = resources.set(name, resource)
            elif name in resources:
                resources = resources.delete(name)
            if resource is not None and resource.ttl_s:
                with_ttl = with_ttl.set(name, resource.ttl_s)
            elif name in with_ttl:
                with_ttl = with_ttl.delete(name)
            views[index] = View(number, resources, view.log, with_ttl)
            names[index].append(name)
        for index, changed in enumerate(names):
            if changed:
                log = views[index].log
                log.append((number, tuple(changed)))
        return Head(number, tuple(views)), names


def empty() -> Head:
    """Return a head that serves nothing."""
    return Head(0, tuple(View(0, Map(), deque(maxlen=LOG_MAX), Map()) for _ in TYPES))


@dataclass(slots=True, eq=False)
class Group:
    """Clients that are served the same; ``head`` is the newest."""

    name: str
    head: Head = field(default_factory=empty)
