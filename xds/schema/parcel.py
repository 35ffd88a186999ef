"""Unpacks the forms in which a resource may arrive to its type and its JSON or bytes."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from xds._generated import xds_wire_pb2
from xds.model.types import WRAPPER, type_url_of
from xds.model.xdstp import canonical
from xds.schema.convert import ConversionError, message_from_json
from xds.schema.decode import Findings, decode, unknown_type
from xds.schema.paths import Finding, Path
from xds.schema.pool import ANY, Schema
from xds.schema.wire import NANOS_PER_SECOND

_WRAPPERS = frozenset({WRAPPER, xds_wire_pb2.Resource.DESCRIPTOR.full_name})
_NOT_SERVED = ("resource_name", "cache_control", "metadata")
_ACCEPTED = 'a mapping with "@type", a protobuf or envoy-data-plane message, or a pair of type URL and bytes'
_NESTED_MAX = 4
_DOCUMENT: Path = ()


@dataclass(slots=True, kw_only=True)
class Parcel:
    """An unpacked resource, as ``json`` or ``data``, and the fields of its wrapper."""

    full_name: str = ""
    """The message type, "" if it is unknown."""
    json: Mapping[str, Any] | None = None
    data: bytes = b""
    place: Path = _DOCUMENT
    """The path of ``json`` in the document."""
    name: str = ""
    aliases: tuple[str, ...] = ()
    ttl_nanos: int = 0


class Unpacker:
    """Unpacks a resource from a dict, a message or bytes, and collects ``problems``."""

    def __init__(self, schema: Schema, *, allow_unknown_types: bool) -> None:
        self._schema = schema
        self._allow_unknown_types = allow_unknown_types
        self.problems: list[Finding] = []

    def unpack(self, item: Any, type_url: str | None) -> Parcel:
        """Unpack an item. ``type_url`` is the type of a dict without ``@type``, and must be the type of any other item.

        A ``version`` in a wrapper is ignored: the version is always computed from the content.
        """
        parcel = Parcel()
        if isinstance(item, Mapping):
            self._open_json(parcel, item, type_url)
        elif isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) and _is_bytes(item[1]):
            self._open_bytes(parcel, _full_name(type_url_of(item[0])), bytes(item[1]), 0)
        elif isinstance(item, Message):
            self._open_bytes(parcel, item.DESCRIPTOR.full_name, item.SerializePartialToString(), 0)
        elif (full_name := foreign_full_name(item, self._schema)) is not None:
            self._open_bytes(parcel, full_name, bytes(item), 0)
        else:
            self._refuse(_DOCUMENT, f"a Python {type(item).__name__} is not a resource", f"give {_ACCEPTED}")
        wanted = _full_name(type_url_of(type_url)) if type_url else parcel.full_name
        if parcel.full_name and parcel.full_name != wanted:
            self._refuse(parcel.place, f"is of type {parcel.full_name}, but {wanted} was asked for")
        if parcel.full_name and not self._schema.has(parcel.full_name) and not self._allow_unknown_types:
            self._refuse((*parcel.place, "@type"), *unknown_type(self._schema, parcel.full_name))
            parcel.full_name = ""
        return parcel

    def _refuse(self, path: Path, what: str, hint: str = "") -> None:
        self.problems.append(Finding(path, what, hint))

    def _open_json(self, parcel: Parcel, value: Mapping[str, Any], type_url: str | None) -> None:
        written = value.get("@type")
        if written is None and type_url:
            written = type_url_of(type_url)
        if not isinstance(written, str) or not written:
            hint = 'say what it is, such as "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster'
            self._refuse(parcel.place, 'has no "@type"', hint)
        elif _full_name(written) not in _WRAPPERS:
            parcel.full_name, parcel.json = _full_name(written), value
        elif parcel.place:
            self._refuse(parcel.place, f"is a {WRAPPER} within another one")
        else:
            self._open_json_wrapper(parcel, value)

    def _open_json_wrapper(self, parcel: Parcel, value: Mapping[str, Any]) -> None:
        outside = {key: item for key, item in value.items() if key != "resource"}
        try:
            wrapper: Any = message_from_json(self._schema, outside, full_name=WRAPPER)
        except ConversionError as error:
            self.problems += error.findings
            wrapper = error.partial
        if wrapper is not None:
            self._read_wrapper(parcel, wrapper)
        inner = value.get("resource")
        if isinstance(inner, Mapping):
            parcel.place = ("resource",)
            self._open_json(parcel, inner, None)
        else:
            self._refuse(("resource",), 'is required, a mapping with an "@type"')

    def _open_bytes(self, parcel: Parcel, full_name: str, data: bytes, depth: int) -> None:
        if full_name != ANY and full_name not in _WRAPPERS:
            parcel.full_name, parcel.data = full_name, data
            return
        found = Findings()
        holder: Any = decode(self._schema, ANY if full_name == ANY else WRAPPER, data, None, found)
        self.problems += found.problems
        if holder is None:
            return
        if full_name != ANY:
            self._read_wrapper(parcel, holder)
            holder = holder.resource
        if not holder.type_url:
            self._refuse((), f"an empty {full_name} holds no resource")
        elif depth >= _NESTED_MAX:
            self._refuse((), f"is wrapped more than {_NESTED_MAX} times")
        else:
            self._open_bytes(parcel, _full_name(holder.type_url), holder.value, depth + 1)

    def _read_wrapper(self, parcel: Parcel, wrapper: Any) -> None:
        parcel.name, parcel.aliases = canonical(wrapper.name), tuple(map(canonical, wrapper.aliases))
        if wrapper.HasField("ttl"):
            parcel.ttl_nanos = wrapper.ttl.seconds * NANOS_PER_SECOND + wrapper.ttl.nanos
            if parcel.ttl_nanos < NANOS_PER_SECOND:
                what = "must be at least 1s: each client is sent three heartbeats within the TTL"
                self._refuse(("ttl",), what, "leave it out for a resource that never expires")
                parcel.ttl_nanos = 0
        for field, _ in wrapper.ListFields():
            if field.name in _NOT_SERVED:
                self._refuse((field.name,), "is not supported: only name, aliases, ttl and resource are served")


def foreign_full_name(item: Any, schema: Schema) -> str | None:
    """Return the proto name of a betterproto2 message, or None if ``item`` is not one.

    The ``default_message_pool`` of the generated package (``envoy_data_plane``) maps the class to its name; without an
    entry, the name is derived from the module and class names.
    """
    kind = type(item)
    if not hasattr(kind, "__bytes__") or not hasattr(kind, "_betterproto"):
        return None
    parts = kind.__module__.split(".")
    for end in range(len(parts), 0, -1):
        generated = sys.modules.get(".".join(parts[:end]) + ".message_pool")
        urls = getattr(getattr(generated, "default_message_pool", None), "type_to_url", {})
        if kind in urls:
            return _full_name(urls[kind])
    tails = (".".join((*parts[start:], kind.__qualname__)) for start in range(len(parts)))
    return next(filter(schema.has, tails), None)


def _is_bytes(data: Any) -> bool:
    return isinstance(data, bytes | bytearray | memoryview)


def _full_name(type_url: str) -> str:
    return type_url.rpartition("/")[2]
