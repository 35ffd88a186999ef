"""Text formats of validation rules: host names, addresses, UUIDs, header names, RE2 patterns.

Header patterns are those in Envoy's own binary; host names follow ``pgv::IsHostname`` (RFC 1034).
"""

import ipaddress
import re
from urllib.parse import urlsplit

HEADER_NAME = r"^:?[0-9a-zA-Z!#$%&'*+-.^_|~`]+$"
HEADER_VALUE = r"^[^\x00-\x08\x0a-\x1f\x7f]*$"
HEADER_LENIENT = r"^[^\x00\x0a\x0d]*$"

_LABEL = re.compile(r"[0-9A-Za-z]([0-9A-Za-z-]{0,61}[0-9A-Za-z])?")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_LOCAL_PART = re.compile(r"[0-9A-Za-z.!#$%&'*+/=?^_`{|}~-]{1,64}")
_URI_TEXT = re.compile(r"(?:[0-9A-Za-z._~:/?#\[\]@!$&'()*+,;=-]|[^\x00-\x7f]|%[0-9A-Fa-f]{2})*")
_RE2_SPACE = r"\t\n\f\r "
_POSIX = {
    "alpha": "A-Za-z",
    "digit": "0-9",
    "alnum": "0-9A-Za-z",
    "upper": "A-Z",
    "lower": "a-z",
    "space": r"\t\n\v\f\r ",
    "xdigit": "0-9A-Fa-f",
    "word": "0-9A-Za-z_",
    "punct": r"!-/:-@\[-`{-~",
    "blank": r"\t ",
    "cntrl": r"\x00-\x1f\x7f",
    "print": " -~",
    "graph": "!-~",
    "ascii": r"\x00-\x7f",
}
_RE2_TOKEN = re.compile(r"\\Q(?P<quoted>.*?)(?:\\E|$)|\\(?P<escape>.)|\[:(?P<posix>\w+):\]|(?P<plain>.)", re.DOTALL)


def ascii_lower(text: str) -> str:
    """Return a text in lower case as Envoy does it: it folds the letters of ASCII alone."""
    return text.lower() if text.isascii() else text.encode().lower().decode()


def python_pattern(re2: str) -> re.Pattern[str]:
    """Compile an RE2 pattern for ``fullmatch``, which is how Envoy's generated validators apply one.

    Translated: ``\\z``, ``\\C``, ``\\Q…\\E``, POSIX classes, ASCII-only ``\\d\\w\\s\\b``, ``\\s`` without ``\\v``, an
    unescaped ``[`` in a class. Raises ``re.error`` for patterns that Python does not support (``\\p{…}``).
    """
    parts: list[str] = []
    class_start: int | None = None
    for token in _RE2_TOKEN.finditer(re2):
        in_class = class_start is not None
        if token["quoted"] is not None:
            parts.append(re.escape(token["quoted"]))
        elif token["escape"] is not None:
            parts.append(_escape(token["escape"], in_class=in_class))
        elif token["posix"] is not None and in_class:
            parts.append(_POSIX[token["posix"]])
        elif in_class:
            closes = token[0] == "]" and "".join(parts[class_start:]) not in ("[", "[^")
            parts.append("\\" + token[0] if token[0] in "[&~|" or (token[0] == "]" and not closes) else token[0])
            class_start = None if closes else class_start
        else:
            class_start = len(parts) if token[0] == "[" else None
            parts.append(token[0])
    return re.compile("".join(parts), re.ASCII)


def _escape(letter: str, *, in_class: bool) -> str:
    if letter == "s":
        return _RE2_SPACE if in_class else f"[{_RE2_SPACE}]"
    if letter == "S" and not in_class:
        return f"[^{_RE2_SPACE}]"
    if not in_class and letter in "zC":
        return r"\Z" if letter == "z" else r"[\s\S]"
    return "\\" + letter


def is_hostname(text: str) -> bool:
    """Return whether a text is a host name: dot-separated labels, at most 253 characters, the last one not a number."""
    name = text.removesuffix(".")
    labels = name.split(".")
    return len(name) <= 253 and all(map(_LABEL.fullmatch, labels)) and not labels[-1].isdigit()


def is_ip(text: str, *, version: int = 0) -> bool:
    """Return whether a text is an IP address, of version 4 or 6 if one is given; no port, no brackets, no zone."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text and version in (0, address.version)


def is_address(text: str) -> bool:
    """Return whether a text is a host name or an IP address."""
    return is_hostname(text) or is_ip(text)


def is_email(text: str) -> bool:
    """Return whether a text is an email address: ``local@host``, at most 254 characters (RFC 5321)."""
    local, at, host = text.rpartition("@")
    return bool(at) and len(text) <= 254 and _LOCAL_PART.fullmatch(local) is not None and is_hostname(host)


def is_uri(text: str) -> bool:
    """Return whether a text is an absolute URI (RFC 3986): it has a scheme."""
    return is_uri_reference(text) and bool(urlsplit(text).scheme)


def is_uri_reference(text: str) -> bool:
    """Return whether a text is a URI or a relative reference (RFC 3986)."""
    if _URI_TEXT.fullmatch(text) is None:
        return False
    try:
        urlsplit(text)
    except ValueError:
        return False
    return True


def is_uuid(text: str) -> bool:
    """Return whether a text is a UUID in its 36-character form (RFC 4122)."""
    return _UUID.fullmatch(text) is not None
