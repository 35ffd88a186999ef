"""Media types of request bodies, read in linear time (RFC 9110, section 8.3.1)."""

import re

MediaType = str
JSON, YAML, PROTOBUF = "application/json", "application/yaml", "application/x-protobuf"
YAML_TOO = ("application/x-yaml", "text/yaml")
CHARACTERS_MAX = 1_000
"""Characters of a ``Content-Type`` header."""

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - it is a pattern
_TYPE = re.compile(rf"[ \t]*({_TOKEN}/{_TOKEN})[ \t]*")
_PARAMETER = re.compile(
    rf';[ \t]*(?:(?P<name>{_TOKEN})(?:=(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^;"\s]*)))?[ \t]*)?'
)
_ESCAPED = re.compile(r"\\(.)")


class UnknownMediaTypeError(Exception):
    """The body's media type is not supported, or can't be read."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: send {JSON}, {YAML} or {PROTOBUF}")


def media_type_of(content_type: str) -> tuple[MediaType, dict[str, str]]:
    """Return the media type of a Content-Type header and its parameters, in lower case except parameter values.

    Raises UnknownMediaTypeError. Of a parameter that is given twice, the first counts.
    """
    if not content_type.strip():
        raise UnknownMediaTypeError("no content type")
    if len(content_type) > CHARACTERS_MAX:
        what = f"the Content-Type has {len(content_type):,} characters, more than the {CHARACTERS_MAX:,} allowed"
        raise UnknownMediaTypeError(what)
    written = _TYPE.match(content_type)
    parameters: dict[str, str] = {}
    at = written.end() if written is not None else 0
    while written is not None and at < len(content_type):
        found = _PARAMETER.match(content_type, at)
        if found is None:
            break
        at = found.end()
        if (name := found["name"]) is not None:
            quoted = found["quoted"]
            value = _ESCAPED.sub(r"\1", quoted) if quoted is not None else found["plain"] or ""
            parameters.setdefault(name.lower(), value)
    if written is None or at < len(content_type):
        raise UnknownMediaTypeError(f"the Content-Type {content_type[:100]!r} is not a media type")
    return written[1].lower(), parameters
