"""The resources of a simulation, their encoding, and random changes of consistent snapshots."""

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from random import Random

from support import naive
from support.encoded import CDS, EDS, LDS, RDS, SDS

from xds._generated import xds_wire_pb2 as wire
from xds.model.resource import Resource

Key = tuple[str, str]
"""A type URL and a name."""
State = Mapping[Key, "Content"]
"""A group's snapshot."""

GOOD, WRONG, UNREADABLE = 0, 1, 2
"""How a client answers a resource: it accepts it, rejects it alone, or rejects the whole response."""

CLUSTERS = ("a", "b", "c", "d", "e")
ROUTES = ("r1", "r2", "r3")
LISTENERS = ("l1", "l2", "l3")
SECRETS = ("s1", "s2")


@dataclass(frozen=True, slots=True)
class Content:
    """One version of a resource. ``label`` distinguishes the versions; ``refers`` are its references."""

    type_url: str
    name: str
    group: str
    label: int
    refers: tuple[Key, ...] = ()
    fault: int = GOOD

    def names(self, type_url: str) -> frozenset[str]:
        """Return the resources of a type that it refers to."""
        return frozenset(name for url, name in self.refers if url == type_url)

    @property
    def key(self) -> Key:
        """Return the key of the resource: type and name."""
        return self.type_url, self.name

    def __str__(self) -> str:
        to = "→" + ",".join(name for _, name in self.refers) if self.refers else ""
        return f"{self.name}@{self.label}{'!' * self.fault}{to}"


@functools.cache
def encode(content: Content) -> Resource:
    """Return the resource, whose body is JSON."""
    said = [content.group, content.label, content.fault]
    return naive.resource(content.type_url, content.name, said, references=content.refers)


@functools.cache
def read(type_url: str, body: bytes) -> Content:
    """Return the content of a resource's body."""
    said = json.loads(body)
    group, label, fault = said["content"]
    return Content(type_url, said["name"], group, label, tuple((url, name) for url, name in said["references"]), fault)


@functools.cache
def restore(type_url: str, encoded: bytes) -> Resource:
    """Return the resource with these encoded bytes, as the store has them. Stands for ``xds.schema.restore``."""
    body = wire.Resource.FromString(encoded).resource
    if body.type_url != type_url:
        raise ValueError(f"not a resource of type {type_url}")
    return encode(read(type_url, body.value))


def of(resource: Resource) -> Content:
    """Return the content of a resource."""
    return _held(resource.type_url, resource.encoded)


@functools.cache
def _held(type_url: str, encoded: bytes) -> Content:
    return read(type_url, wire.Resource.FromString(encoded).resource.value)


def forget() -> None:
    """Empty the caches of encoded and decoded resources."""
    restore.cache_clear()
    _held.cache_clear()
    encode.cache_clear()
    read.cache_clear()


class Author:
    """Makes random changes of groups' snapshots that keep each snapshot consistent."""

    def __init__(self, groups: Iterable[str], *, faults: bool, secrets: bool) -> None:
        self.faults, self.secrets = faults, secrets
        self.labels = 0
        self.states: dict[str, dict[Key, Content]] = {group: {} for group in groups}
        self.history: dict[str, list[dict[Key, Content]]] = {group: [] for group in groups}

    def change(self, group: str, chance: Random) -> dict[Key, Content]:
        """Change a group by one or more random edits; return its next snapshot without making it current."""
        state = dict(self.states[group])
        if not state or chance.random() < 0.06:
            return self._anything(group, chance)
        if self.history[group] and chance.random() < 0.12:
            return chance.choice(self.history[group][-6:])
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            chance.choices(self._edits, self._weights)[0](self, group, state, chance)
            self._complete(group, state, chance)
        return state

    def keep(self, group: str, state: dict[Key, Content]) -> None:
        """Make a snapshot the current one of its group."""
        self.history[group].append(self.states[group])
        self.states[group] = state

    def repaired(self, group: str) -> dict[Key, Content]:
        """Return the snapshot with all bad resources fixed."""
        return {
            key: replace(content, fault=GOOD, label=self._label()) if content.fault else content
            for key, content in sorted(self.states[group].items())
        }

    def touched(self, group: str) -> dict[Key, Content]:
        """Return the snapshot with a new version of every resource."""
        return {
            key: replace(content, fault=GOOD, label=self._label())
            for key, content in sorted(self.states[group].items())
        }

    def probe(self) -> int:
        """Return the label of a version that no other resource has."""
        return self._label()

    # --- Edits -----------------------------------------------------------------------------------------------------

    def _label(self) -> int:
        self.labels += 1
        return self.labels

    def _put(self, group: str, state: dict[Key, Content], key: Key, refers: Iterable[Key], chance: Random) -> None:
        fault = GOOD
        if self.faults and key[0] in (CDS, EDS, LDS, RDS) and chance.random() < 0.12:
            fault = chance.choice((WRONG, WRONG, WRONG, UNREADABLE))
        state[key] = Content(*key, group, self._label(), tuple(sorted(refers)), fault)

    def _touch(self, group: str, state: dict[Key, Content], type_url: str, chance: Random) -> None:
        if found := [key for key in sorted(state) if key[0] == type_url]:
            key = chance.choice(found)
            self._put(group, state, key, state[key].refers, chance)

    def _touch_endpoints(self, group: str, state: dict[Key, Content], chance: Random) -> None:
        self._touch(group, state, EDS, chance)

    def _touch_cluster(self, group: str, state: dict[Key, Content], chance: Random) -> None:
        self._touch(group, state, CDS, chance)

    def _touch_route(self, group: str, state: dict[Key, Content], chance: Random) -> None:
        self._touch(group, state, RDS, chance)

    def _touch_listener(self, group: str, state: dict[Key, Content], chance: Random) -> None:
        self._touch(group, state, LDS, chance)

    def _touch_secret(self, group: str, state: dict[Key, Content], chance: Random) -> None:
        self._touch(group, state, SDS, chance)

    def _new_cluster(self, group: str, state: dict[Key, Content], chance: Random) -> None:
        self._put(group, state, (CDS, chance.choice(CLUSTERS)), self._cluster_refers(chance), chance)

    def _cluster_refers(self, chance: Random) -> list[Key]:
        kind = chance.random()
        refers: list[Key] = [(EDS, f"e{chance.randrange(4)}")] if kind < 0.8 else []
        if self.secrets and chance.random() < 0.15:
            refers.append((SDS, chance.choice(SECRETS)))
        return refers

    def _targets(self, chance: Random) -> list[Key]:
        return [(CDS, name) for name in chance.sample(CLUSTERS, chance.choice((1, 1, 1, 2)))]

    def _route(self, group: str, state: dict[Key, Content], chance: Random) -> None:
        self._put(group, state, (RDS, chance.choice(ROUTES)), self._targets(chance), chance)

    def _listener(self, group: str, state: dict[Key, Content], chance: Random) -> None:
        refers: list[Key] = [(RDS, chance.choice(ROUTES))] if chance.random() < 0.7 else self._targets(chance)
        if self.secrets and chance.random() < 0.2:
            refers.append((SDS, chance.choice(SECRETS)))
        self._put(group, state, (LDS, chance.choice(LISTENERS)), refers, chance)

    def _remove(self, group: str, state: dict[Key, Content], chance: Random) -> None:
        """Remove a listener, a route or a cluster. Its referrers get another reference or are removed too."""
        found = [key for key in sorted(state) if key[0] in (CDS, LDS, RDS)]
        if not found:
            return
        gone = chance.choice(found)
        del state[gone]
        for key, content in sorted(state.items()):
            if gone in content.refers:
                others = [other for other in sorted(state) if other[0] == gone[0] and other not in content.refers]
                left = [refer for refer in content.refers if refer != gone]
                if others:
                    left.append(chance.choice(others))
                if others or key[0] == RDS:
                    self._put(group, state, key, left, chance)
                else:
                    del state[key]

    def _rename(self, group: str, state: dict[Key, Content], chance: Random) -> None:
        """Rename a cluster in all resources."""
        found = [name for url, name in sorted(state) if url == CDS]
        free = [name for name in CLUSTERS if (CDS, name) not in state]
        if not found or not free:
            return
        old, new = (CDS, chance.choice(found)), (CDS, chance.choice(free))
        before = state.pop(old)
        self._put(group, state, new, before.refers, chance)
        for key, content in sorted(state.items()):
            if old in content.refers:
                self._put(group, state, key, [new if refer == old else refer for refer in content.refers], chance)

    def _mend(self, group: str, state: dict[Key, Content], chance: Random) -> None:
        for key, content in sorted(state.items()):
            if content.fault:
                state[key] = replace(content, fault=GOOD, label=self._label())

    def _anything(self, group: str, chance: Random) -> dict[Key, Content]:
        """Return a new random snapshot."""
        state: dict[Key, Content] = {}
        for _ in range(chance.randrange(1, 4)):
            self._listener(group, state, chance)
        if chance.random() < 0.3:
            self._new_cluster(group, state, chance)
        self._complete(group, state, chance)
        return state

    def _complete(self, group: str, state: dict[Key, Content], chance: Random) -> None:
        """Add missing resources; remove some that nothing refers to."""
        makers: dict[str, Callable[[], list[Key]]] = {
            RDS: lambda: self._targets(chance),
            CDS: lambda: self._cluster_refers(chance),
            EDS: list,
            SDS: list,
        }
        for of_type in (RDS, CDS, EDS, SDS):
            named = {key for content in state.values() for key in content.refers if key[0] == of_type}
            for key in sorted(named - state.keys()):
                self._put(group, state, key, makers[of_type](), chance)
            for key in sorted(key for key in state.keys() - named if key[0] == of_type):
                if of_type in (EDS, SDS) or chance.random() < 0.4:
                    del state[key]

    _edits = (
        _touch_endpoints, _touch_cluster, _touch_route, _touch_listener, _touch_secret,
        _new_cluster, _route, _listener, _remove, _rename, _mend,
    )  # fmt: skip
    _weights = (4, 3, 2, 2, 1, 3, 6, 4, 4, 3, 2)
