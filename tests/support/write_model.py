"""A simple model of the push API's writes, without revisions, stores, streams or protobuf.

A state maps places to content; an operation leads from one state to the next, or is refused with a status.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from immutables import Map

DEFAULT = "default"
CONFLICT, UNKNOWN, WRONG, UNAVAILABLE = 409, 404, 422, 503
"""HTTP statuses. Over gRPC they are ABORTED, NOT_FOUND, INVALID_ARGUMENT and UNAVAILABLE."""

Place = tuple[str, str, str]
"""Group, short type name, name."""
Kind = Literal["apply", "replace", "rollback", "put_group", "delete_group", "put_rules", "update_rules", "push", "read"]


@dataclass(frozen=True, slots=True)
class State:
    """The whole state: the content of each resource, the groups, their inheritance, and the rules."""

    resources: Map[Place, str] = field(default_factory=Map)
    groups: frozenset[str] = frozenset({DEFAULT})
    extends: Map[str, str] = field(default_factory=Map)
    rules: tuple[str, ...] = ()
    """The group of each rule; what a rule matches is irrelevant here."""
    external: tuple[str, ...] = ()

    def of(self, group: str) -> dict[Place, str]:
        """Return a group's own resources."""
        return {place: content for place, content in self.resources.items() if place[0] == group}


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One write. Fields that a kind does not need are left out.

    ``sets`` and ``removes`` are of ``group``: type, name and content; type and name. A route's content is the cluster
    that it refers to. ``update_rules`` leaves ``rules``, ``extends_all`` and ``external`` unchanged if None.
    """

    kind: Kind
    id: str = ""
    group: str = DEFAULT
    sets: tuple[tuple[str, str, str], ...] = ()
    removes: tuple[tuple[str, str], ...] = ()
    to: int = 0
    extends: str | None = None
    extends_all: tuple[tuple[str, str | None], ...] | None = None
    rules: tuple[str, ...] | None = None
    external: tuple[str, ...] | None = None
    add_external: tuple[str, ...] = ()
    expected: int | None = None
    dry_run: bool = False
    of_group: bool = False
    """Used by reads."""


def shown(state: State, op: Op) -> object:
    """Return the result of a read: with a group its resources, else the groups and rules."""
    if op.of_group:
        return state.of(op.group)
    return state.groups, dict(state.extends), state.rules, state.external


def outcome(states: list[State], at: int, op: Op) -> State | int:
    """Return the state that an operation leads to from revision ``at``, or the status that it is refused with."""
    now = states[at]
    if _in_circle(dict(op.extends_all or ())):
        return WRONG  # whatever the state: it is checked first
    if op.kind == "rollback" and (op.to > at or op.group not in states[op.to].groups):
        return UNKNOWN
    if op.expected is not None and (
        op.expected > at or any(_changed_at(states, at, name) > op.expected for name in _concerned(op))
    ):
        return CONFLICT
    after = _after(states, now, op)
    return after if isinstance(after, int) or _is_sound(after) else WRONG


RULES = ""
"""Stands for the groups and rules among the names of groups."""


def _concerned(op: Op) -> set[str]:
    """Return the groups, and RULES, whose changes an expected revision is about."""
    if op.kind == "put_rules":
        return {RULES}
    if op.kind != "update_rules":
        return {op.group}
    is_about_rules = op.rules is not None or op.external is not None or op.add_external
    return {group for group, _ in op.extends_all or ()} | ({RULES} if is_about_rules else set())


def _changed_at(states: list[State], at: int, name: str) -> int:
    """Return the newest revision up to ``at`` that changed a group, or the groups and rules; 0 if none did."""
    now = _part(states[at], name)
    return next((revision for revision in range(at, 0, -1) if _part(states[revision - 1], name) != now), 0)


def _part(state: State, name: str) -> object:
    if name == RULES:
        return state.groups, state.extends, state.rules, state.external
    return name in state.groups, state.of(name), state.extends.get(name)


def _after(states: list[State], now: State, op: Op) -> State | int:
    sets = {(op.group, type_, name): content for type_, name, content in op.sets}
    match op.kind:
        case "apply" | "push":
            if op.group not in now.groups and not sets:
                return UNKNOWN
            gone = {(op.group, *each) for each in op.removes}
            kept = {place: content for place, content in now.resources.items() if place not in gone}
            return replace(now, resources=Map(kept | sets), groups=now.groups | {op.group})
        case "replace" | "rollback":
            whole = sets if op.kind == "replace" else states[op.to].of(op.group)
            others = {place: content for place, content in now.resources.items() if place[0] != op.group}
            return replace(now, resources=Map(others | whole), groups=now.groups | {op.group})
        case "put_group":
            if op.extends is not None and op.extends not in now.groups:
                return UNKNOWN
            return _extending(now, {op.group: op.extends})
        case "delete_group":
            return _without(now, op.group)
        case "put_rules" | "update_rules":
            return _ruled(now, op)
    raise AssertionError(op.kind)


def _without(now: State, group: str) -> State | int:
    if group not in now.groups:
        return UNKNOWN
    if group == DEFAULT or group in now.rules or group in now.extends.values():
        return WRONG
    others = {place: content for place, content in now.resources.items() if place[0] != group}
    extends = {name: base for name, base in now.extends.items() if name != group}
    return replace(now, resources=Map(others), groups=now.groups - {group}, extends=Map(extends))


def _extending(now: State, bases: dict[str, str | None]) -> State:
    extends = {name: base for name, base in now.extends.items() if name not in bases}
    extends |= {name: base for name, base in bases.items() if base is not None}
    return replace(now, groups=now.groups | bases.keys(), extends=Map(extends))


def _ruled(now: State, op: Op) -> State | int:
    bases = dict(op.extends_all or ())
    named = {*bases.values(), *(op.rules or ())} - {None}
    if not named <= now.groups | bases.keys():
        return WRONG
    if op.kind == "put_rules":
        emptied = replace(now, extends=Map(), rules=op.rules or (), external=op.external or ())
        return _extending(emptied, bases)
    external = now.external if op.external is None else op.external
    external += tuple(sorted({*op.add_external} - {*external}))
    rules = now.rules if op.rules is None else op.rules
    return replace(_extending(now, bases), rules=rules, external=external)


def _in_circle(extends: Mapping[str, str | None]) -> bool:
    for group in extends:
        line = [group]
        while (base := extends.get(line[-1])) is not None:
            if base in line:
                return True
            line.append(base)
    return False


def _is_sound(state: State) -> bool:
    """Return whether no group extends itself, and every route's nodes also have its cluster."""
    if _in_circle(state.extends):
        return False
    for group in state.groups:
        line = [group]
        while (base := state.extends.get(line[-1])) is not None:
            line.append(base)
        served: dict[tuple[str, str], str] = {}
        for each in reversed(line):
            served.update({place[1:]: content for place, content in state.of(each).items()})
        for (type_, _), content in served.items():
            if type_ == "routes" and ("clusters", content) not in served and content not in state.external:
                return False
    return True
