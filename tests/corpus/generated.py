"""Values of any message type, made from its descriptor and its PGV rules: the least that is valid, and fuller ones."""

import contextlib
import random
import re
from typing import Any

from corpus import descriptors
from google.protobuf.descriptor import Descriptor, FieldDescriptor, OneofDescriptor

Json = dict[str, Any]
_RULES = 1071
"""``validate.rules`` of a field, and ``validate.required`` of a oneof."""
_DEPTH_MAX = 6
T = FieldDescriptor


class TooDeepError(Exception):
    """A message needs itself, or more levels than are made."""


class Maker:
    """Makes values of messages in Envoy's JSON form. ``full``: the share of optional fields that are set."""

    def __init__(self, seed: int = 0, *, full: float = 0.0, depth: int = 3) -> None:
        self.random = random.Random(seed)
        self.full, self.depth = full, depth

    def message(self, descriptor: Descriptor, depth: int = 0) -> Any:
        """Return a value of a message type."""
        if descriptor.full_name in _WELL_KNOWN:
            return _WELL_KNOWN[descriptor.full_name](self)
        if depth > _DEPTH_MAX:
            raise TooDeepError(descriptor.full_name)
        made: Json = {}
        for field in descriptor.fields:
            if _real_oneof(field) is None and (is_required(field) or (not _is_gone(field) and self._wants(depth))):
                made[field.name] = self.field(field, depth)
        for oneof in descriptor.oneofs:
            members = [field for field in oneof.fields if _real_oneof(field) is not None and not _is_gone(field)]
            if members and (oneof_is_required(oneof) or self._wants(depth)):
                made |= self._one_of(members, depth)
        return made

    def _one_of(self, members: list[FieldDescriptor], depth: int) -> Json:
        """Return one of a oneof's fields, the first by chance that does not lead too deep."""
        for field in self.random.sample(members, len(members)):
            with contextlib.suppress(TooDeepError):
                return {field.name: self.field(field, depth)}
        raise TooDeepError(members[0].full_name)

    def _wants(self, depth: int) -> bool:
        return depth < self.depth and self.random.random() < self.full

    def field(self, field: FieldDescriptor, depth: int) -> Any:
        """Return a value of a field, with its items if it is repeated or a map."""
        rules = rules_of(field)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return self._map(field, rules, depth)
        if field.is_repeated:
            of_list = rules.repeated if rules else None
            least = max(of_list.min_items if of_list else 0, 1)
            item_rules = of_list.items if of_list and of_list.HasField("items") else None
            unique = bool(of_list and of_list.unique)
            return [self.one(field, item_rules, depth, index if unique else 0) for index in range(least)]
        return self.one(field, rules, depth)

    def _map(self, field: FieldDescriptor, rules: Any, depth: int) -> Json:
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        of_key = rules.map.keys if rules and rules.map.HasField("keys") else None
        of_value = rules.map.values if rules and rules.map.HasField("values") else None
        return {str(self.one(key, of_key, depth)): self.one(value, of_value, depth)}

    def one(self, field: FieldDescriptor, rules: Any, depth: int, index: int = 0) -> Any:
        """Return one value of a field's type that satisfies the rules; others for other indexes."""
        if field.message_type is not None:
            name = field.message_type.full_name
            if name in _WRAPPERS:
                return self.one(field.message_type.fields_by_name["value"], rules, depth, index)
            if name == "google.protobuf.Duration":
                return _duration(rules.duration if rules else None)
            return self.message(field.message_type, depth + 1)
        if field.enum_type is not None:
            return self._enum(field, rules)
        if field.type == T.TYPE_BOOL:
            return rules.bool.const if rules and rules.bool.HasField("const") else True
        if field.type == T.TYPE_STRING:
            return _string(field, rules.string if rules else None, index)
        if field.type == T.TYPE_BYTES:
            return "YWJjZA==" if index == 0 else "YWJjZQ=="
        kind = _NUMBERS[field.type]
        return _number(getattr(rules, kind) if rules else None, kind, index)

    def _enum(self, field: FieldDescriptor, rules: Any) -> str:
        allowed = [value for value in field.enum_type.values if not value.GetOptions().deprecated]
        if rules and rules.enum.not_in:
            allowed = [value for value in allowed if value.number not in rules.enum.not_in]
        if getattr(rules, "enum", None) and getattr(rules.enum, "in"):
            allowed = [value for value in allowed if value.number in getattr(rules.enum, "in")]
        return str(self.random.choice(allowed).name)


def rules_of(field: FieldDescriptor) -> Any:
    """Return a field's ``validate.FieldRules``, or None."""
    encoded = descriptors.option(field, _RULES)
    return descriptors.new("validate.FieldRules", encoded) if isinstance(encoded, bytes) else None


def oneof_is_required(oneof: OneofDescriptor) -> bool:
    """Return whether one of a oneof's fields must be set."""
    return descriptors.option(oneof, _RULES) == 1


def is_required(field: FieldDescriptor) -> bool:
    """Return whether a message is invalid without the field."""
    rules = rules_of(field)
    if rules is None:
        return False
    kind = rules.WhichOneof("type")
    if rules.message.required or (kind in ("duration", "any", "timestamp") and getattr(rules, kind).required):
        return True
    if kind is None or (field.message_type is not None and kind not in ("repeated", "map")):
        return False
    of_kind = getattr(rules, kind)
    if getattr(of_kind, "ignore_empty", False):
        return False
    return _refuses_default(kind, of_kind)


def _refuses_default(kind: str, rules: Any) -> bool:
    if kind == "repeated":
        return bool(rules.min_items)
    if kind == "map":
        return bool(rules.min_pairs)
    if kind in ("string", "bytes"):
        names = ("const", "len", "min_len", "min_bytes", "pattern", "prefix", "suffix", "well_known_regex")
        listed = bool(getattr(rules, "in", None))
        return (
            listed
            or any(name in {f.name for f, _ in rules.ListFields()} for name in names)
            or bool(rules.WhichOneof("well_known"))
        )
    if kind == "enum":
        return 0 in rules.not_in or (bool(getattr(rules, "in")) and 0 not in getattr(rules, "in"))
    if kind == "bool":
        return bool(rules.const)
    return bool(
        (rules.HasField("gt") and rules.gt >= 0) or (rules.HasField("gte") and rules.gte > 0) or getattr(rules, "in")
    )


def _real_oneof(field: FieldDescriptor) -> OneofDescriptor | None:
    oneof = field.containing_oneof
    return None if oneof is None or oneof.name == f"_{field.name}" else oneof


def _is_gone(field: FieldDescriptor) -> bool:
    return bool(field.GetOptions().deprecated) or field.name.startswith("hidden_envoy_deprecated")


def _string(field: FieldDescriptor, rules: Any, index: int) -> str:
    text = f"{field.name.replace('_', '-')[:20]}{index or ''}"
    if re.search(r"(^|_)cluster(_name)?$", field.name):
        return "backend"
    if rules is None:
        return text
    if getattr(rules, "in"):
        return str(getattr(rules, "in")[0])
    if rules.const:
        return str(rules.const)
    known = {
        "address": "127.0.0.1",
        "ip": "127.0.0.1",
        "hostname": "host.example.com",
        "uri": "https://example.com/a",
        "uri_ref": "/a",
    }
    if (which := rules.WhichOneof("well_known")) in known:
        return known[which]
    if rules.pattern:
        return _PATTERNS.get(rules.pattern, text)
    text = f"{rules.prefix}{text}{rules.suffix}"
    text += "x" * (max(rules.len, rules.min_len, rules.min_bytes) - len(text))
    longest = rules.len or min(n for n in (rules.max_len, rules.max_bytes, 10_000) if n)
    return text[:longest]


def _number(rules: Any, kind: str, index: int) -> Any:
    value: Any = 7 + index
    if kind in ("float", "double"):
        value = 0.5 + index
    if rules is not None:
        if getattr(rules, "in"):
            value = getattr(rules, "in")[0]
        elif rules.HasField("const"):
            value = rules.const
        low = rules.gte if rules.HasField("gte") else rules.gt + 1 if rules.HasField("gt") else None
        high = rules.lte if rules.HasField("lte") else rules.lt - 1 if rules.HasField("lt") else None
        if low is not None and value < low:
            value = low
        if high is not None and value > high:
            value = high
    return str(value) if kind in ("int64", "uint64") else value


def _duration(rules: Any) -> str:
    if rules is None:
        return "3.000000250s"
    low = rules.gte if rules.HasField("gte") else rules.gt
    high = rules.lte if rules.HasField("lte") else rules.lt
    nanos = 3 * 10**9
    if (least := low.seconds * 10**9 + low.nanos) >= nanos:
        nanos = least + 10**9
    if (most := high.seconds * 10**9 + high.nanos) and most <= nanos:
        nanos = most - 10**6
    return f"{nanos // 10**9}.{nanos % 10**9:09d}s"


_NUMBERS = {
    T.TYPE_DOUBLE: "double", T.TYPE_FLOAT: "float", T.TYPE_INT64: "int64", T.TYPE_UINT64: "uint64",
    T.TYPE_INT32: "int32", T.TYPE_UINT32: "uint32", T.TYPE_FIXED64: "fixed64", T.TYPE_FIXED32: "fixed32",
    T.TYPE_SFIXED32: "sfixed32", T.TYPE_SFIXED64: "sfixed64", T.TYPE_SINT32: "sint32", T.TYPE_SINT64: "sint64",
}  # fmt: skip
_WRAPPERS = {
    f"google.protobuf.{kind}Value"
    for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
}
_PATTERNS = {
    r"^$|^.*\.mmdb$": "/etc/geo.mmdb",
    r"^[^?#]+[^?#/]$": "/a/b",
    r'^$|^/[^\x00-\x1f\x7f ",;<>\\]*$': "/a",
}
_WELL_KNOWN: dict[str, Any] = {
    "google.protobuf.Struct": lambda _: {"text": "a", "number": 1, "truth": True, "list": [1, "b", None], "nested": {}},
    "google.protobuf.Value": lambda _: "a value",
    "google.protobuf.ListValue": lambda _: ["a", 1],
    "google.protobuf.Any": lambda _: {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "any"},
    "google.protobuf.Timestamp": lambda _: "2026-01-02T03:04:05.000000006Z",
    "google.protobuf.Duration": lambda _: "1.5s",
    "google.protobuf.Empty": lambda _: {},
    "google.protobuf.FieldMask": lambda _: "oneField,other.nestedField",
    "envoy.config.core.v3.DataSource": lambda _: {"inline_string": "text"},
    "envoy.config.core.v3.CidrRange": lambda _: {"address_prefix": "10.0.0.0", "prefix_len": 8},
    "xds.core.v3.CidrRange": lambda _: {"address_prefix": "10.0.0.0", "prefix_len": 8},
    "envoy.config.core.v3.GrpcService": lambda _: {"envoy_grpc": {"cluster_name": "backend"}, "timeout": "0.25s"},
    "envoy.config.core.v3.HttpUri": lambda _: {
        "uri": "http://host.example.com/a",
        "cluster": "backend",
        "timeout": "1s",
    },
}
