"""The entry point for resources: checks and encodes one in any form, or raises all its problems."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from google.protobuf.message import DecodeError

from xds.model import types
from xds.model.problem import ChangesetRejectedError, Problem
from xds.model.resource import Resource
from xds.model.xdstp import canonical
from xds.schema.convert import ConversionError, message_from_json
from xds.schema.decode import FINDINGS_MAX, Findings, decode
from xds.schema.diagnose import suppressed
from xds.schema.names import NAMED_INSIDE, make_name_canonical, name_field, name_inside
from xds.schema.parcel import Parcel, Unpacker
from xds.schema.paths import Finding, Path, dotted, locate, value_at
from xds.schema.plan import Plans, mode_of
from xds.schema.pool import load_schema
from xds.schema.redact import REDACTED_BYTES, find_placeholders
from xds.schema.scalars import BAD, read_bytes
from xds.schema.scrub import hider, secrets_of_message, secrets_written
from xds.schema.wire import NANOS_PER_SECOND, encode_any, encode_resource

FIELD_CHARACTERS_MAX = 1_000
"""The longest place of a problem: keys of maps may be of any length."""
READ_BYTES_MAX = 1024 * 1024 * 1024
"""Maximum bytes of a resource that is read at all. What is accepted is limited by ``xds.model.sizes``."""


@cache
def load_plans() -> Plans:
    """Return the compiled walks over the Envoy API, shared within the process."""
    return Plans(load_schema())


def ingest(
    item: Any,
    *,
    type_url: str | None = None,
    name: str | None = None,
    source: str = "",
    line_of: Callable[[Path], int] | None = None,
    allow_unknown_types: bool = False,
    allow_redacted: bool = False,
    read_bytes_max: int = READ_BYTES_MAX,
) -> Resource:
    """Check and encode one resource, or raise ChangesetRejectedError with *every* problem it has.

    ``item`` is a mapping in Envoy's JSON form with ``@type`` (keys snake_case or camelCase), a protobuf message of any
    pool, an ``envoy-data-plane`` message, or a pair of type URL and bytes; each may be wrapped in an Any or in
    ``envoy.service.discovery.v3.Resource``, which may give name, TTL and aliases. ``type_url`` (or a short name such as
    ``clusters``) is the type of a mapping without ``@type``; ``name`` is for resources without a name of their own.

    ``source`` is the file of the item; ``line_of`` maps a path of keys and indexes that exists in it to a line. With
    ``allow_unknown_types``, or if the schema passes them, messages that the schema lacks are accepted unchecked: in
    bytes, or in JSON as ``{"@type": …, "value": <base64>}``. The placeholder of a redacted secret is a problem unless
    ``allow_redacted``, for resources that are only shown again.

    Equal content has an equal ``version`` and equal bytes, in any form and on any machine. ``item`` is not changed.
    """
    allow_unknown_types = allow_unknown_types or load_schema().passes_unknown_types
    intake = _Intake(item, source, line_of)
    unpacker = Unpacker(load_schema(), allow_unknown_types=allow_unknown_types)
    try:
        parcel = unpacker.unpack(item, type_url)
        intake.note(unpacker.problems, ())
        found = Findings(allow_unknown_types=allow_unknown_types, allow_redacted=allow_redacted)
        resource = intake.read(parcel, canonical(name or ""), found, read_bytes_max)
    except RecursionError:
        intake.note([Finding((), "is nested too deeply to be read")], ())
        resource = None
    if resource is None:
        raise ChangesetRejectedError(intake.problems)
    return resource


class _Intake:
    """One item that is being ingested: its source, and its problems so far."""

    def __init__(self, item: Any, source: str, line_of: Callable[[Path], int] | None) -> None:
        self._document = item if isinstance(item, Mapping) else None
        self._source = source
        self._line_of = line_of
        self._subject = ("", "")
        self._data: tuple[str, bytes] = ("", b"")
        self._noted: list[tuple[Finding, Path]] = []

    @property
    def problems(self) -> list[Problem]:
        """The problems, in the order of their lines; if there are too many, the first ones, and that there are more."""
        hide = hider(self._secrets())
        told = sorted((self._told(each, hide) for each in self._noted[:FINDINGS_MAX]), key=lambda each: each.line)
        if len(self._noted) > FINDINGS_MAX:
            more = Finding((), f"has more problems than these {FINDINGS_MAX}", "mend these, and try again")
            told.append(self._told((more, ()), hide))
        return told

    def _told(self, noted: tuple[Finding, Path], hide: Callable[[str], str]) -> Problem:
        finding, place = noted
        field = dotted(finding.path)
        return Problem(
            what=hide(finding.what),
            hint=hide(finding.hint),
            file=self._source,
            line=self._line((*place, *finding.path)),
            resource=_label(*self._subject),
            field=field if len(field) <= FIELD_CHARACTERS_MAX else field[: FIELD_CHARACTERS_MAX - 1] + "…",
        )

    def _secrets(self) -> list[str]:
        """Return what may be secrets in the item, so that no problem quotes them."""
        try:
            if self._document is not None:
                return secrets_written(self._document)
            return list(secrets_of_message(*self._data))
        except (DecodeError, RecursionError):
            return []

    def note(self, findings: list[Finding], place: Path) -> None:
        """Add findings whose paths start at ``place`` in the document."""
        self._noted += [(finding, place) for finding in findings]

    def read(self, parcel: Parcel, name: str, found: Findings, bytes_max: int) -> Resource | None:
        """Read, check, name and encode the resource of a parcel; None if there is any problem."""
        type_url = types.TYPE_PREFIX + parcel.full_name
        self._subject = (type_url, _name_written(parcel, type_url) or parcel.name or name)
        self._data = (parcel.full_name, parcel.data)
        if not parcel.full_name or self._is_too_large(len(parcel.data), bytes_max):
            return None
        value, inner_name = _content(parcel, type_url, found)
        self._subject = (type_url, inner_name or parcel.name or name)
        chosen = _choose_name(type_url, inner_name, parcel.name, name, found) if value is not None else ""
        self.note(found.problems, parcel.place)
        if self._noted or value is None:
            return None
        body = encode_any(type_url, value)
        if self._is_too_large(len(body), bytes_max):
            return None
        wire = encode_resource(body, chosen, ttl_nanos=parcel.ttl_nanos, aliases=parcel.aliases)
        line = self._line(parcel.place) if self._source else 0  # to find it may take another look at the file
        return Resource(
            type_url=type_url,
            name=chosen,
            version=wire.version,
            encoded=wire.encoded,
            body_start=wire.body_start,
            body_end=wire.body_end,
            ttl_s=parcel.ttl_nanos / NANOS_PER_SECOND if parcel.ttl_nanos else None,
            heartbeat=wire.heartbeat,
            aliases=parcel.aliases,
            references=tuple(found.references.values()),
            source=f"{self._source}:{line}" if self._source and line else self._source,
        )

    def _is_too_large(self, size_bytes: int, bytes_max: int) -> bool:
        if size_bytes > bytes_max:
            self.note([Finding((), f"is {size_bytes} bytes, over the limit of {bytes_max}", "split the resource")], ())
        return size_bytes > bytes_max

    def _line(self, path: Path) -> int:
        return self._line_of(locate(self._document, path)) if self._line_of is not None else 0


def _content(parcel: Parcel, type_url: str, found: Findings) -> tuple[bytes | None, str]:
    """Return the canonical bytes of a parcel's message and the name inside it, adding any problems."""
    plans = load_plans()
    if not plans.schema.has(parcel.full_name):
        return _opaque_content(parcel, found), ""
    refused: list[Finding] = []
    message: Any
    if parcel.json is not None:
        try:
            message = message_from_json(
                plans.schema, parcel.json, full_name=parcel.full_name, allow_unknown_types=found.allow_unknown_types
            )
        except ConversionError as error:
            refused, message = error.findings, error.partial
    else:
        message = decode(plans.schema, parcel.full_name, parcel.data, None, found)
    if message is None:
        found.problems += refused
        return None, _name_written(parcel, type_url)
    make_name_canonical(message, type_url)
    value = plans.canonical(message, mode_of(parcel.full_name), None, found)
    if REDACTED_BYTES in value and not found.allow_redacted:
        find_placeholders(plans.schema, message, found)
    if refused:
        found.problems = refused + suppressed(found.problems, refused)
    return value, name_inside(message, type_url) or _name_written(parcel, type_url)


def _opaque_content(parcel: Parcel, found: Findings) -> bytes | None:
    """Return the bytes of a resource of an unknown type, which the caller allows."""
    if parcel.json is None:
        return parcel.data
    data = read_bytes(parcel.json.get("value")) if set(parcel.json) - {"@type"} == {"value"} else BAD
    if data is BAD:
        hint = 'give its encoded bytes as base64 in "value", and nothing else'
        found.add(None, "is of an unknown type, so its fields cannot be encoded", hint)
        return None
    return bytes(data)


def _name_written(parcel: Parcel, type_url: str) -> str:
    """Return the name in the JSON, for messages about a resource that cannot be read."""
    if parcel.json is None:
        return ""
    place = locate(parcel.json, (name_field(type_url),))
    value = value_at(parcel.json, place) if place else ""
    return canonical(value) if isinstance(value, str) else ""


def _choose_name(type_url: str, inside: str, around: str, argument: str, found: Findings) -> str:
    """Return the resource's name. A missing name is a problem, and so are two that differ."""
    if around and argument and around != argument:
        found.add(None, f"is named {around!r} by its wrapper but {argument!r} by the request")
    outer = around or argument
    if type_url in NAMED_INSIDE:
        if outer and inside and outer != inside:
            what = f"is {inside!r}, but the resource around it is named {outer!r}"
            found.add((None, name_field(type_url)), what, "Envoy goes by the name inside: make them equal")
        name = inside
    else:
        # Clients request these by the wrapper's name: a virtual host is "route/host" (VHDS).
        name = outer or inside
    field = name_field(type_url)
    if not name and not any(finding.path == (field,) for finding in found.problems):
        found.add((None, field) if type_url in NAMED_INSIDE else None, "has no name", "every resource needs one")
    return name


def _label(type_url: str, name: str) -> str:
    return "/".join(part for part in (types.short_name(type_url), name) if part)
