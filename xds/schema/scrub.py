"""Hides secrets in texts about resources: problems that quote a value, and what Envoys say of what they reject.

Neither can be trusted to leave secrets out: a value may stand in the wrong field, and Envoy repeats whole messages. So
the secrets of the resource are searched for in the text. For a resource that can be decoded, ``redact`` finds them; for
what was written, which may be wrong in any way, the names of its keys do. What is inline in a ``DataSource`` is shown
only where the schema says that the field is no secret.
"""

import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from xds.model.resource import Resource
from xds.schema import pool
from xds.schema.pool import Schema, load_schema
from xds.schema.redact import REDACTED, secrets_in
from xds.schema.secret_fields import USER_IN_URI

TEXT_CHARACTERS_MAX = 8_192
"""A longer text is cut off."""
PART_CHARACTERS_MIN = 8
"""A part of a secret of so many characters is hidden wherever it stands; a shorter secret only as a whole word."""
SHORT_CHARACTERS_MIN = 3
SECRET_CHARACTERS_MAX = 256 * 1024
"""Of a longer secret only the beginning is searched for."""
KNOWN_MAX = 20_000

FILTER_SLOTS_PER_CHARACTER, FILTER_BITS_MAX = 8, 24
"""Size of the table of hashes: bytes for each character of the secrets, and 16 MiB at most."""
_SECRET_KEY = re.compile(
    r"inline_?(string|bytes)|passw|secret|token|private_?key|credential|pkcs12|json_?key|access_?key|_jwks|Jwks"
    r"|key_?values|context_?extensions|auth_?username|api_?key|^users$|ticket|tls_?certificate",
    re.IGNORECASE,
)
"""Keys below which everything may be a secret."""
_NOT_SECRET = frozenset(
    {"name", "filename", "path", "environment_variable", "environmentVariable", "@type", "cluster", "cluster_name"}
)
"""Keys of texts that are none, below those."""
_DATA_SOURCE = "envoy.config.core.v3.DataSource"
_INLINE = frozenset({"inline_string", "inline_bytes", "inlineString", "inlineBytes"})
_PEM_MARK = re.compile(r"-----(?:BEGIN|END) [A-Z0-9 ]+-----")
_WRITTEN = re.compile(r"""(?P<indent>^[ \t-]*)?(?P<key>["']?[@\w.-]+["']?)[ \t]*:(?P<rest>[^\n]*)""", re.MULTILINE)
_known: dict[tuple[str, str, str], tuple[str, ...]] = {}


def hider(secrets: Iterable[str]) -> Callable[[str], str]:
    """Return a function that puts ``[redacted]`` in the place of every secret in a text, and of every part of one."""
    forms = {form for secret in secrets for form in _forms(secret[:SECRET_CHARACTERS_MAX])}
    if not forms:
        return lambda text: text
    short = sorted((re.escape(each) for each in forms if len(each) < PART_CHARACTERS_MIN), key=len, reverse=True)
    words = re.compile(rf"(?<!\w)(?:{'|'.join(short)})(?!\w)") if short else None
    parts = _Parts("\0".join(forms))

    def hide(text: str) -> str:
        if len(text) > TEXT_CHARACTERS_MAX:
            text = text[: TEXT_CHARACTERS_MAX - 1] + "…"
        return _without_parts(text if words is None else words.sub(REDACTED, text), parts)

    return hide


def secrets_of(resource: Resource) -> tuple[str, ...]:
    """Return the secrets in a resource. Those of the last ``KNOWN_MAX`` resources are remembered."""
    key = (resource.type_url, resource.name, resource.version)
    found = _known.get(key)
    if found is None:
        schema = load_schema()
        body: Any = schema.message_class(pool.ANY).FromString(resource.body)
        found = _known_of(schema, body)
        if len(_known) >= KNOWN_MAX:
            _known.clear()
        _known[key] = found
    return found


def hider_of(resources: Iterable[Resource]) -> Callable[[str], str]:
    """Return the function that hides the secrets of resources in what someone says of them."""
    return hider(secret for resource in resources for secret in secrets_of(resource))


def secrets_of_message(full_name: str, data: bytes) -> tuple[str, ...]:
    """Return the secrets in an encoded message, none if it can't be decoded."""
    schema = load_schema()
    return _known_of(schema, schema.message_class(pool.ANY)(type_url=f"/{full_name}", value=data))


def secrets_written(value: Any) -> list[str]:
    """Return what may be secrets in a plain value in Envoy's JSON form, wherever it stands and however it is wrong."""
    return list(_written(value, None, is_secret=False))


def secrets_in_text(text: str) -> list[str]:
    """Return what may be secrets in the text of a YAML or JSON file that can't be parsed.

    It is what follows a key that may have a secret: the rest of its line, and all lines that are indented more.
    """
    found: list[str] = []
    for match in _WRITTEN.finditer(text):
        if _SECRET_KEY.search(match["key"]) or match["key"].strip("\"'").lower() in load_schema().secret_fields.headers:
            found += _values_after(text, match)
    return found


def _values_after(text: str, match: re.Match[str]) -> Iterator[str]:
    yield from _words(match["rest"])
    line_start = text.rfind("\n", 0, match.start()) + 1
    indent = _indent_of(text[line_start : match.end()])
    for line in text[match.end() :].splitlines()[1:]:
        if line.strip() and _indent_of(line) <= indent:
            return
        yield from _words(line)


def _indent_of(line: str) -> int:
    return len(line) - len(line.lstrip(" \t"))


def _words(text: str) -> Iterator[str]:
    """Yield a text without what YAML and JSON write around a value, and its words."""
    stripped = text.strip().strip("\"',[]{}|>&*!")
    yield stripped
    yield from re.split(r"[\s,\[\]{}\"']+", stripped)


def _known_of(schema: Schema, message: Any) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for secret in secrets_in(schema, message):
        if isinstance(secret, bytes):
            found[b64encode(secret).decode()] = None
            secret = secret.decode(errors="replace")
        found[secret] = None
    return tuple(found)


def _written(value: Any, message: Descriptor | None, *, is_secret: bool, is_plain: bool = False) -> Iterator[str]:
    """Yield what may be secrets in a value.

    ``message``: what it is, if the schema says so. ``is_plain``: what is inline in it is no secret.
    """
    if isinstance(value, Mapping):
        message = _named(value) or message
        headers = load_schema().secret_fields.headers
        named = value.get("key", value.get("name"))
        is_header = isinstance(named, str) and named.lower() in headers
        for key, item in value.items():
            if key in _NOT_SECRET or (is_header and item is named):
                continue
            field = _field(message, str(key))
            hides = bool(_SECRET_KEY.search(str(key))) and not (is_plain and key in _INLINE)
            yield from _written(
                item,
                _content(field),
                is_secret=is_secret or is_header or hides,
                is_plain=field is not None and _is_plain_source(field),
            )
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _written(item, message, is_secret=is_secret, is_plain=is_plain)
    elif isinstance(value, str) and (is_secret or USER_IN_URI.match(value)):
        yield value
    elif is_secret and isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)


def _named(value: Mapping[Any, Any]) -> Descriptor | None:
    """Return the message that a value names as its type."""
    full_name = str(value.get("@type", "")).rpartition("/")[2]
    return load_schema().descriptor(full_name) if full_name and load_schema().has(full_name) else None


def _field(message: Descriptor | None, key: str) -> FieldDescriptor | None:
    if message is None:
        return None
    found: FieldDescriptor | None = message.fields_by_name.get(key) or message.fields_by_camelcase_name.get(key)
    return found


def _content(field: FieldDescriptor | None) -> Descriptor | None:
    """Return the message that a field, or each item of it, holds."""
    kind = field.message_type if field is not None else None
    return None if kind is None or kind.GetOptions().map_entry else kind


def _is_plain_source(field: FieldDescriptor) -> bool:
    """Return whether a field is a ``DataSource`` that is no secret, nor beside one, for which it may be mistaken."""
    kind, owner = field.message_type, field.containing_type
    if kind is None or owner is None or kind.full_name != _DATA_SOURCE:
        return False
    return not any(map(load_schema().is_sensitive, owner.fields))


def _forms(secret: str) -> Iterator[str]:
    """Yield a secret as others may write it."""
    for part in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]):
        for plain in _PEM_MARK.split(part):
            if len(plain) >= SHORT_CHARACTERS_MIN and plain != REDACTED:
                yield plain
    if len(secret) >= SHORT_CHARACTERS_MIN:
        yield b64encode(secret.encode(errors="replace")).decode()


class _Parts:
    """The parts of secrets: looked up in a table of hashes first, since most of a text is in none."""

    __slots__ = ("_known", "_mask", "_secrets")

    def __init__(self, secrets: str) -> None:
        self._secrets = secrets
        bits = min(max((FILTER_SLOTS_PER_CHARACTER * len(secrets)).bit_length(), 10), FILTER_BITS_MAX)
        self._mask = mask = (1 << bits) - 1
        self._known = known = bytearray(1 << bits)
        for at in range(len(secrets) - PART_CHARACTERS_MIN + 1):
            hashed = hash(secrets[at : at + PART_CHARACTERS_MIN])
            known[hashed & mask] = known[hashed >> FILTER_BITS_MAX & mask] = 1

    def end_of(self, text: str, at: int) -> int:
        """Return the end of the longest part of a secret that begins at a place of a text, ``at`` if none does."""
        secrets, size, end = self._secrets, len(text), at + PART_CHARACTERS_MIN
        if end > size:
            return at
        hashed = hash(text[at:end])
        if not (self._known[hashed & self._mask] and self._known[hashed >> FILTER_BITS_MAX & self._mask]):
            return at
        place = secrets.find(text[at:end])
        if place < 0:
            return at
        while place >= 0:
            left = min(size - end, len(secrets) - place - (end - at))
            begins = place + end - at
            longer = next((n for n in range(left) if secrets[begins + n] != text[end + n]), left)
            end += longer
            if end == size:
                break
            place = secrets.find(text[at : end + 1], place + 1)  # another place may have more
        return end


def _without_parts(text: str, parts: _Parts) -> str:
    shown: list[str] = []
    at = 0
    while at < len(text):
        end = parts.end_of(text, at)
        if end == at or text.startswith(REDACTED, at):
            shown.append(text[at])
            at += 1
            continue
        shown.append(REDACTED)
        at = end
    return "".join(shown)
