"""Who a client has proven to be, and patterns that rules match identities with.

An identity is a tuple of names of one kind, empty for none:

- ``spiffe://corp/ns/payments/sa/web``: a SPIFFE ID (SPIFFE-ID, sections 2.1 to 2.3), of a certificate or a token;
- ``dns:web.corp``: the DNS names of a certificate, of which any may match, in lower case;
- ``cn:web``: the common name of a certificate;
- ``jwt:corp/web``: the name of a token's issuer in the settings, and the token's subject.

In patterns ``*`` is one segment and ``{name}`` one segment with a name, which ``require`` can refer to. ``/**`` at the
end of a SPIFFE ID or a subject is one segment or more, and so is ``**.`` at the start of a DNS name. A pattern of one
kind never matches a name of another one.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

SPIFFE = "spiffe://"
KINDS = (SPIFFE, "dns:", "cn:", "jwt:")
ANY_IDENTITY = "*"
"""The pattern that every client matches, also one without an identity."""
SPIFFE_BYTES_MAX = 2048
TRUST_DOMAIN_BYTES_MAX = 255
NAME_CHARACTERS_MAX = 4096

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?")
_PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_DELIMITERS = {SPIFFE: r"/", "dns:": r"\.", "cn:": r"(?!)", "jwt:": r"[/:]"}


@dataclass(frozen=True, slots=True)
class Peer:
    """What is known of the client at the other end of a stream before it sends anything."""

    identity: tuple[str, ...] = ()
    """Its proven names, all of one kind; empty if it has proven none."""
    gets_secrets: bool = True
    """Whether secrets may be sent to it. Otherwise its subscriptions to secrets find none."""


ANONYMOUS = Peer()


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """A workload's SPIFFE ID, in parts."""

    trust_domain: str
    path: tuple[str, ...]

    def __str__(self) -> str:
        return f"{SPIFFE}{self.trust_domain}/{'/'.join(self.path)}"


def parse_spiffe(text: str) -> SpiffeId:
    """Return the parts of a workload's SPIFFE ID. Raises ValueError with the reason."""
    if not text.startswith(SPIFFE):
        raise ValueError(f"a SPIFFE ID begins with {SPIFFE}")
    if len(text.encode(errors="replace")) > SPIFFE_BYTES_MAX:
        raise ValueError(f"a SPIFFE ID has at most {SPIFFE_BYTES_MAX} bytes")
    trust_domain, *path = text.removeprefix(SPIFFE).split("/")
    if not _TRUST_DOMAIN.fullmatch(trust_domain):
        raise ValueError("a trust domain has only lower-case letters, digits, dots, dashes and underscores")
    if len(trust_domain) > TRUST_DOMAIN_BYTES_MAX:
        raise ValueError(f"a trust domain has at most {TRUST_DOMAIN_BYTES_MAX} characters")
    if not path:
        raise ValueError("it names a trust domain and no workload")
    for segment in path:
        if segment in ("", ".", ".."):
            raise ValueError(f"its path has the segment {segment!r}")
        if not _SEGMENT.fullmatch(segment):
            raise ValueError("a path has only letters, digits, dots, dashes and underscores")
    return SpiffeId(trust_domain, tuple(path))


@dataclass(frozen=True, slots=True)
class IdentityPattern:
    """A parsed pattern; ``parse_identity_pattern`` makes it."""

    text: str
    kind: str
    """The prefix of the names that it can match, "" for any name or none."""
    parts: tuple[str, ...] = ()
    """Segments with the delimiters between them, without those of ``**``; for DNS names from the last label on."""
    rest: bool = False
    """Whether more segments must follow ``parts``."""

    def match(self, names: Iterable[str]) -> Mapping[str, str] | None:
        """Return the named segments of the first name that matches, None if none does."""
        if not self.kind:
            return {}
        for name in names:
            if name.startswith(self.kind) and (captured := self._match(_parts(self.kind, name))) is not None:
                return captured
        return None

    @property
    def literal(self) -> str:
        """The text that every matching name begins with; "" where that can't be told, as for DNS names."""
        if self.kind in ("", "dns:"):
            return ""
        end = next((at for at, part in enumerate(self.parts) if _is_wild(part)), len(self.parts))
        return self.kind + "".join(self.parts[:end])

    @property
    def placeholders(self) -> tuple[str, ...]:
        """The names of its named segments."""
        return tuple(found.group(1) for part in self.parts if (found := _PLACEHOLDER.fullmatch(part)))

    def _match(self, parts: tuple[str, ...]) -> Mapping[str, str] | None:
        wanted = self.parts
        if len(parts) <= len(wanted) if self.rest else len(parts) != len(wanted):
            return None
        captured: dict[str, str] = {}
        for want, part in zip(wanted, parts, strict=False):
            if not _is_wild(want):
                if want != part:
                    return None
            elif want != "*":
                captured[want[1:-1]] = part
        return captured


def parse_identity_pattern(text: str) -> IdentityPattern:
    """Parse a pattern. Raises ValueError with the reason."""
    if text == ANY_IDENTITY:
        return IdentityPattern(text, "")
    kind = next((each for each in KINDS if text.startswith(each)), "")
    if not kind:
        raise ValueError(f"an identity begins with {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    if len(text) > NAME_CHARACTERS_MAX:
        raise ValueError(f"an identity has at most {NAME_CHARACTERS_MAX} characters")
    if kind == "dns:":
        text = text.lower()
    parts = _parts(kind, text)
    rest = len(parts) > 1 and parts[-1] == "**"
    if rest:
        parts = parts[:-1]  # the delimiter before it stays: it must be there
    first = parts[0]
    if kind in (SPIFFE, "jwt:") and _is_wild(first):
        what = "trust domain" if kind == SPIFFE else "issuer"
        raise ValueError(f"the {what} must be written out: a pattern matches one {what} only")
    if kind == SPIFFE and not rest and len(parts) == 1:
        raise ValueError("it names a trust domain and no workload; write spiffe://TRUST-DOMAIN/** for all of them")
    seen: set[str] = set()
    for at, part in enumerate(parts):
        if at % 2 == 0 and not (rest and at == len(parts) - 1 and part == ""):
            _check_part(kind, part, first=at == 0, seen=seen)
    return IdentityPattern(text, kind, parts, rest)


def _parts(kind: str, name: str) -> tuple[str, ...]:
    parts = re.split(f"({_DELIMITERS[kind]})", name[len(kind) :])
    return tuple(reversed(parts)) if kind == "dns:" else tuple(parts)


def _is_wild(part: str) -> bool:
    return part == "*" or (part.startswith("{") and part.endswith("}") and len(part) > 2)


def _check_part(kind: str, part: str, *, first: bool, seen: set[str]) -> None:
    if part == "*":
        return
    if found := _PLACEHOLDER.fullmatch(part):
        if found.group(1) in seen:
            raise ValueError(f"{part} is in it twice")
        seen.add(found.group(1))
        return
    if "*" in part or "{" in part or "}" in part:
        end = "**. stands at its start" if kind == "dns:" else "/** at its end"
        raise ValueError(f"{part!r}: * and {{name}} are whole segments, and {end}")
    if part == "":
        raise ValueError("it has an empty segment")
    if kind == SPIFFE:
        pattern = _TRUST_DOMAIN if first else _SEGMENT
        if not pattern.fullmatch(part) or part in (".", ".."):
            raise ValueError(f"{part!r} can't be part of a SPIFFE ID")
    if kind == "dns:" and not _LABEL.fullmatch(part):
        raise ValueError(f"{part!r} can't be a label of a DNS name; write international names in their xn-- form")
