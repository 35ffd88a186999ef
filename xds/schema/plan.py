"""Compiled walks over messages: rules, typed configs, references, canonical bytes.

A plan is compiled when its message type is first used. It leaves out fields without anything to check in them, and what
a rule says of an *unset* field is computed at compile time, so a walk costs one ``ListFields`` per message.
"""

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from xds.model.resource import Reference
from xds.model.xdstp import XDSTP
from xds.schema import pool, rules
from xds.schema.decode import Findings, decode, unknown_type
from xds.schema.memo import CACHED_TYPES, Visit, cached_visit
from xds.schema.paths import MapKey, Trail, dotted, path_of
from xds.schema.reference_table import BOOTSTRAP_ONLY
from xds.schema.references import Extractor, extractor_of, has_references, write_canonical
from xds.schema.semantics.registry import EDS_RULES, RULES, Rule
from xds.schema.unvalidated import UNVALIDATED

CHECK, REFERENCES, EDS, METADATA, UNRULED = 1, 2, 4, 8, 16
"""Bits of a walk's mode: check rules; collect references; the resource is one of EDS, which has rules of its own;
inside metadata, whose messages Envoy reads but does not use, so that no semantic rule holds and nothing is referred to;
inside a message that Envoy does not validate, so that semantic rules hold and those of the API do not.

Typed configs are made canonical in every mode.
"""

_METADATA = "envoy.config.core.v3.Metadata"
_ENDPOINTS = "envoy.config.endpoint.v3.ClusterLoadAssignment"

TYPED_CONFIG_STEPS_MAX = 100
"""Maximum keys and indexes above a typed config. protobuf limits only the depth within each typed config."""


class MessagePlan:
    """The walk over one message type in one mode."""

    __slots__ = ("_extract", "_fields", "_full", "_missing", "_mode", "_plans", "_rule", "descriptor")

    def __init__(self, plans: "Plans", descriptor: Descriptor, mode: int) -> None:
        self._plans = plans
        self._mode = mode
        self._extract: Extractor | None = None
        self._rule: Rule | None = None
        self._fields: dict[int, tuple[int, str, Visit | None]] | None = None
        self._missing: tuple[tuple[int, str, str], ...] = ()
        self._full = 0
        self.descriptor = descriptor

    def run(self, message: Any, trail: Trail, found: Findings) -> None:
        """Walk one message. The values of its typed configs are replaced by their deterministic encoding."""
        fields = self._fields
        if fields is None:
            fields = self._compile()
        if self._extract is not None:
            self._refer(message, trail, found)
        seen = 0
        for field, value in message.ListFields():
            entry = fields.get(field.number)
            if entry is not None:
                bit, name, visit = entry
                seen |= bit
                if visit is not None:
                    visit(value, (trail, name), found)
        if seen != self._full:
            for bit, name, what in self._missing:
                if not seen & bit:
                    found.add((trail, name) if name else trail, what)
        if self._rule is not None:
            self._rule(message, trail, found, self._plans)

    def _refer(self, message: Any, trail: Trail, found: Findings) -> None:
        assert self._extract is not None
        for named in self._extract(message, trail is None):
            key = (named.type_url, named.name)
            if named.name.startswith(XDSTP):
                key = (named.type_url, write_canonical(message, named))
            if named.name and key not in found.references:
                path = (*path_of(trail), *named.path)
                found.references[key] = Reference(*key, dotted(path))

    def _compile(self) -> dict[int, tuple[int, str, Visit | None]]:
        """Compile the plan. Another thread may do so at the same time, so ``_fields`` is assigned last."""
        schema, descriptor = self._plans.schema, self.descriptor
        mode = self._plans.mode_within(descriptor, self._mode)
        is_ruled = has_rules(mode)
        compiler, demands = _FieldCompiler(self._plans, mode), _Demands()
        fields: dict[int, tuple[int, str, Visit | None]] = {}
        for field in descriptor.fields:
            ruled = schema.rules(field) if is_ruled else None
            absent = _complaint_if_absent(field, ruled) if ruled is not None else None
            bit = demands.add(field.name, absent) if absent else 0
            visit = compiler.visit(field, ruled)
            if visit is not None or bit:
                fields[field.number] = (bit, field.name, visit)
        for oneof in descriptor.oneofs:
            if is_ruled and schema.is_required(oneof):
                names = [member.name for member in oneof.fields]
                bit = demands.add("", f"must have one of {', '.join(names)}")
                for member in oneof.fields:
                    own_bit, _, visit = fields.get(member.number, (0, "", None))
                    fields[member.number] = (own_bit | bit, member.name, visit)
        self._extract = extractor_of(descriptor.full_name) if mode & REFERENCES else None
        self._rule = rule_of(descriptor.full_name, mode)
        self._missing, self._full = tuple(demands.all), demands.full
        self._fields = fields
        return fields


class _Demands:
    """The required fields, with a bit and a problem text each."""

    def __init__(self) -> None:
        self.all: list[tuple[int, str, str]] = []
        self.full = 0

    def add(self, name: str, what: str) -> int:
        bit = 1 << len(self.all)
        self.all.append((bit, name, what))
        self.full |= bit
        return bit


class Plans:
    """The plans of one schema, compiled on first use. Thread-safe: compiling a plan twice is harmless."""

    def __init__(self, schema: pool.Schema) -> None:
        self.schema = schema
        self._plans: dict[tuple[str, int], MessagePlan] = {}
        self._interesting: dict[tuple[str, int], bool] = {}

    def of(self, descriptor: Any, mode: int) -> MessagePlan | None:
        """Return the plan of a message type, or None if nothing in it needs checking."""
        key = (descriptor.full_name, mode)
        plan = self._plans.get(key)
        if plan is None and self._is_interesting(descriptor, mode):
            plan = self._plans.setdefault(key, MessagePlan(self, descriptor, mode))
        return plan

    def mode_within(self, descriptor: Descriptor, mode: int) -> int:
        """Return the mode inside a message type that is reached in ``mode``."""
        if descriptor.full_name in BOOTSTRAP_ONLY:
            mode &= ~REFERENCES
        if descriptor.full_name == _METADATA:
            mode = (mode | METADATA) & ~REFERENCES
        if descriptor.full_name in UNVALIDATED:
            mode |= UNRULED
        return mode & ~CHECK if self.schema.is_unchecked(descriptor) else mode

    def canonical(self, message: Message, mode: int, trail: Trail, found: Findings) -> bytes:
        """Walk a message and return its deterministic encoding, including that of its typed configs."""
        plan = self.of(message.DESCRIPTOR, mode)
        if plan is not None:
            plan.run(message, trail, found)
        return message.SerializeToString(deterministic=True)

    def open_any(self, value: Any, mode: int, trail: Trail, found: Findings) -> None:
        """Walk into a ``google.protobuf.Any`` and make its bytes canonical."""
        full_name = value.type_url.rpartition("/")[2]
        if len(path_of(trail)) > TYPED_CONFIG_STEPS_MAX:
            found.add(trail, "is a typed config nested too deeply")
            return
        if not full_name:
            if value.value:  # an Any without anything is valid: `config: {}`
                found.add(trail, 'has no "@type"', 'say which message it is: "@type": type.googleapis.com/…')
        elif not self.schema.has(full_name):
            if not found.allow_unknown_types:
                found.add(trail, *(("", "") if found.is_full else unknown_type(self.schema, full_name)))
        else:
            message = decode(self.schema, full_name, value.value, trail, found)
            if message is not None:
                inner = (trail, "value") if full_name in pool.VALUE_IN_ANY else trail
                data = self.canonical(message, (mode | CHECK) & ~(EDS | UNRULED), inner, found)
                if data != value.value:
                    value.value = data

    def _is_interesting(self, descriptor: Descriptor, mode: int) -> bool:
        """Return whether any type reachable from this one needs checking, and cache the result for this one."""
        key = (descriptor.full_name, mode)
        known = self._interesting.get(key)
        if known is not None:
            return known
        answer = False
        pending, met = [(descriptor, mode)], {key}
        while pending and not answer:
            current, current_mode = pending.pop()
            inner_mode = self.mode_within(current, current_mode)
            answer = self._interesting.get((current.full_name, current_mode), False) or self._has_own(
                current, inner_mode
            )
            for field in current.fields:
                reached = field.message_type
                if reached is not None and (reached.full_name, inner_mode) not in met:
                    met.add((reached.full_name, inner_mode))
                    pending.append((reached, inner_mode))
        self._interesting[key] = answer
        return answer

    def _has_own(self, descriptor: Descriptor, mode: int) -> bool:
        if mode & REFERENCES and has_references(descriptor.full_name):
            return True
        if descriptor.full_name == pool.ANY or (mode & CHECK and descriptor.full_name == pool.DURATION):
            return True
        if not mode & CHECK:
            return False
        if rule_of(descriptor.full_name, mode) is not None:
            return True
        if not has_rules(mode):
            return False
        ruled = any(self.schema.rules(field) is not None for field in descriptor.fields)
        return ruled or any(map(self.schema.is_required, descriptor.oneofs))


class _FieldCompiler:
    """Compiles one field of a message to the visit of its value, None if a walk can skip it."""

    def __init__(self, plans: Plans, mode: int) -> None:
        self._plans = plans
        self._mode = mode

    def visit(self, field: FieldDescriptor, ruled: Any | None) -> Visit | None:
        if not field.is_repeated:
            if ruled is not None and not field.has_presence and _asks_only_presence(ruled):
                ruled = None  # ListFields returns such a field only if it is not empty
            return self._value(field, ruled)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return self._map(field.message_type, ruled.map if ruled is not None else None)
        return self._list(field, ruled.repeated if ruled is not None else None)

    def _value(self, field: FieldDescriptor, ruled: Any | None) -> Visit | None:
        message_type = field.message_type
        kind = message_type.full_name if message_type is not None else ""
        if kind == pool.ANY:
            return self._any(ruled, field)
        if kind == pool.DURATION and self._mode & CHECK:
            return _checked(rules.duration_check(ruled.duration if ruled is not None else None))
        if message_type is not None and kind in pool.WRAPPERS:
            return self._wrapper(message_type.fields_by_name["value"], ruled)
        if message_type is not None and kind != pool.TIMESTAMP:
            unchecked = ruled is not None and ruled.message.skip
            plan = self._plans.of(message_type, self._mode & ~CHECK if unchecked else self._mode)
            return plan.run if plan is not None else None
        check = rules.value_check(ruled, field) if ruled is not None else None
        return _checked(check) if check is not None else None

    def _any(self, ruled: Any | None, field: FieldDescriptor) -> Visit:
        plans, mode = self._plans, self._mode
        check = rules.value_check(ruled, field) if ruled is not None else None

        def visit(value: Any, trail: Trail, found: Findings) -> None:
            what = check(value) if check is not None else None
            if what is not None:
                found.add(trail, what)
            plans.open_any(value, mode, trail, found)

        return visit

    def _wrapper(self, content: FieldDescriptor, ruled: Any | None) -> Visit | None:
        check = rules.value_check(ruled, content) if ruled is not None else None
        if check is None:
            return None

        def visit(value: Any, trail: Trail, found: Findings) -> None:
            what = check(value.value)
            if what is not None:
                found.add(trail, what)

        return visit

    def _list(self, field: FieldDescriptor, ruled: Any | None) -> Visit | None:
        size = rules.size_check(ruled, "item") if ruled is not None else None
        item_rules = ruled.items if ruled is not None and ruled.HasField("items") else None
        item = self._value(field, item_rules)
        if item is not None and field.message_type is not None and field.message_type.full_name in CACHED_TYPES:
            item = cached_visit(item)
        unique = ruled is not None and ruled.unique
        if size is None and item is None and not unique:
            return None

        def visit(values: Any, trail: Trail, found: Findings) -> None:
            what = size(values) if size is not None else None
            if what is not None:
                found.add(trail, what)
            if item is not None:
                for index, value in enumerate(values):
                    item(value, (trail, index), found)
            if unique and (twice := rules.first_repeated(values)) is not None:
                found.add(trail, f"must not have the same item twice, but has {rules.cut(repr(twice[1]))}")

        return visit

    def _map(self, entry: Descriptor, ruled: Any | None) -> Visit | None:
        key_field, value_field = entry.fields_by_name["key"], entry.fields_by_name["value"]
        size = rules.size_check(ruled, "pair") if ruled is not None else None
        key_check = rules.value_check(ruled.keys, key_field) if ruled is not None and ruled.HasField("keys") else None
        value_rules = ruled.values if ruled is not None and ruled.HasField("values") else None
        value_visit = self._value(value_field, value_rules)
        if size is None and key_check is None and value_visit is None:
            return None

        def visit(pairs: Any, trail: Trail, found: Findings) -> None:
            what = size(pairs) if size is not None else None
            if what is not None:
                found.add(trail, what)
            for key in sorted(pairs):
                here = (trail, MapKey(key))
                what = key_check(key) if key_check is not None else None
                if what is not None:
                    found.add(here, f"its key {what}")
                if value_visit is not None:
                    value_visit(pairs[key], here, found)

        return visit


def mode_of(full_name: str) -> int:
    """Return the mode of the walk over a resource of a type."""
    return CHECK | REFERENCES | EDS if full_name == _ENDPOINTS else CHECK | REFERENCES


def has_rules(mode: int) -> bool:
    """Return whether the rules of the API hold in a mode."""
    return bool(mode & CHECK) and not mode & UNRULED


def rule_of(full_name: str, mode: int) -> Rule | None:
    """Return the semantic rule of a message type in a mode, None if it has none."""
    if not mode & CHECK or mode & METADATA:
        return None
    return RULES.get(full_name) or (EDS_RULES.get(full_name) if mode & EDS else None)


def _complaint_if_absent(field: FieldDescriptor, ruled: Any) -> str | None:
    """Return the problem if the field is unset, or None. A scalar without presence then has its default value.

    A member of a oneof is checked only if it is set, as another member may be set instead.
    """
    check: rules.Check | None = None
    if field.containing_oneof is not None:
        return None
    if field.is_repeated:
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        check = rules.size_check(ruled.map, "pair") if is_map else rules.size_check(ruled.repeated, "item")
        return check([]) if check is not None else None
    if field.message_type is not None:
        return "is required" if rules.requires_presence(ruled) else None
    if not field.has_presence:
        check = rules.value_check(ruled, field)
    return check(field.default_value) if check is not None else None


def _asks_only_presence(ruled: Any) -> bool:
    """Return whether the only rule of a text is that it is not empty."""
    text = ruled.string
    return ruled.WhichOneof("type") == "string" and [(field.name, value) for field, value in text.ListFields()] in (
        [("min_len", 1)],
        [("min_bytes", 1)],
    )


def _checked(check: rules.Check) -> Visit:
    def visit(value: Any, trail: Trail, found: Findings) -> None:
        what = check(value)
        if what is not None:
            found.add(trail, what)

    return visit
