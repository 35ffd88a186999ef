"""The file that maps identities of certificates and OIDC tokens to roles and groups (``access.identities_file``).

::

    callers:                                  # the first that matches decides
    - identity: spiffe://corp/ns/ci/**        # or dns:…, cn:…, jwt:ISSUER/SUBJECT; patterns as in groups.yaml
      roles: [write]
      groups: ["web-*"]
    - identity: jwt:corp/*
      claims: {groups: platform}              # which the token must have, or have in a list
      grants:                                 # several roles, each in its own groups
      - roles: [read]
      - roles: [write, secrets]
        groups: [platform]
    issuers:                                  # of OIDC tokens; read at a start
    - {name: corp, issuer: https://login.corp, audiences: [xds], jwks_url: https://login.corp/keys}
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xds.access.errors import AccessFileError
from xds.access.rights import Caller, Grant, grant_problems
from xds.identity.fetch import url_problem
from xds.identity.issuers import ALGORITHMS, Issuer
from xds.model.identity import IdentityPattern, parse_identity_pattern
from xds.model.problem import ChangesetRejectedError, Problem
from xds.sources.yaml_reader import Document, YamlLimits, read_yaml

ENTRIES_MAX = 10_000
FILE_BYTES_MAX = 4 * 1024 * 1024
_ISSUER_KEYS = {"name", "issuer", "audiences", "jwks_file", "jwks_url", "jwks_ca", "algorithms", "subject_claim"}
_ISSUER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,99}")
_SPACES = re.compile(r"[%\s\x00-\x20\x7f-\xa0]")
_KEYS = {"identity", "claims", "roles", "groups", "grants"}


@dataclass(frozen=True, slots=True)
class Proven:
    """The names that a certificate or an OIDC token proves, and the token's claims."""

    names: tuple[str, ...]
    claims: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """Whom an entry of the file is for, and what they may do."""

    pattern: IdentityPattern
    grants: tuple[Grant, ...]
    claims: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Identities:
    """All entries of a file, in order."""

    entries: tuple[Entry, ...] = ()
    issuers: tuple[Issuer, ...] = ()

    def caller(self, names: Iterable[str], claims: Mapping[str, Any] | None = None) -> Caller | None:
        """Return the caller that has one of the names and the claims, None if no entry is for it.

        The first entry that matches decides. Names of another kind than its pattern never match it.
        """
        listed = tuple(names)
        for entry in self.entries:
            for name in listed:
                if entry.pattern.match((name,)) is not None and _has_claims(claims or {}, entry.claims):
                    return Caller(one_word(name), entry.grants)
        return None


def one_word(name: str) -> str:
    """Return a name with its white space, control characters and ``%`` percent-encoded.

    An author is ``IDENTITY TEXT``, so an identity has no spaces; and different names stay different.
    """
    return _SPACES.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), name)


def read_identities(path: Path) -> Identities:
    """Read a file of identities. Raises AccessFileError."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise AccessFileError(f"{path} can't be read: {error.strerror}") from None
    try:
        document = read_yaml(data, file=str(path), limits=YamlLimits(file_bytes_max=FILE_BYTES_MAX, nodes_max=500_000))
    except ChangesetRejectedError as error:
        raise AccessFileError("; ".join(map(str, error.problems[:20]))) from None
    reading = _Reading(document, str(path))
    found, issuers = reading.entries(), reading.issuers()
    if reading.problems:
        raise AccessFileError("; ".join(map(str, reading.problems[:20])))
    return Identities(found, issuers)


class _Reading:
    def __init__(self, document: Document, file: str) -> None:
        self.problems: list[Problem] = []
        self._document, self._file = document, file

    def entries(self) -> tuple[Entry, ...]:
        content = self._document.value
        if not isinstance(content, dict) or not {"callers"} <= set(content) <= {"callers", "issuers"}:
            self._note("the file has the key callers, and for OIDC tokens issuers", ())
            return ()
        if not isinstance(content["callers"], list):
            self._note("callers is a list of entries", ("callers",))
            return ()
        if len(content["callers"]) > ENTRIES_MAX:
            self._note(f"there are more than {ENTRIES_MAX:,} entries: use patterns", ())
            return ()
        read = (self._entry(item, at) for at, item in enumerate(content["callers"]))
        return tuple(each for each in read if each is not None)

    def issuers(self) -> tuple[Issuer, ...]:
        content = self._document.value
        listed = content.get("issuers", []) if isinstance(content, dict) else []
        if not isinstance(listed, list):
            self._note("issuers is a list", ("issuers",))
            return ()
        read = (self._issuer(item, ("issuers", at)) for at, item in enumerate(listed))
        found = tuple(each for each in read if each is not None)
        if len({each.name for each in found}) < len(found):
            self._note("two issuers have the same name", ("issuers",))
        return found

    def _issuer(self, item: Any, place: tuple[str | int, ...]) -> Issuer | None:
        before = len(self.problems)
        if not isinstance(item, dict) or not set(item) <= _ISSUER_KEYS:
            self._note(f"an issuer is a mapping with {', '.join(sorted(_ISSUER_KEYS))}", place)
            return None
        for key in ("name", "issuer", "jwks_file", "jwks_url", "jwks_ca", "subject_claim"):
            if not isinstance(item.get(key, "x"), str) or not item.get(key, "x"):
                self._note(f"{key}: write a text", (*place, key))
        for key in ("audiences", "algorithms"):
            value = item.get(key, ["x"])
            if not isinstance(value, list) or not value or not all(isinstance(each, str) and each for each in value):
                self._note(f"{key}: write a list of texts", (*place, key))
        if missing := [key for key in ("name", "issuer", "audiences") if key not in item]:
            self._note(f"an issuer needs {', '.join(missing)}", place)
        if ("jwks_file" in item) is ("jwks_url" in item):
            self._note("an issuer needs one of jwks_file and jwks_url", place)
        if len(self.problems) > before:
            return None
        if not _ISSUER_NAME.fullmatch(item["name"]):
            self._note("name: write letters, digits, dots and dashes", (*place, "name"))
        if wrong := [each for each in item.get("algorithms", ()) if each not in ALGORITHMS]:
            self._note(f"algorithms: {wrong[0][:20]!r} is not one of {', '.join(ALGORITHMS)}", (*place, "algorithms"))
        if "jwks_url" in item and (problem := url_problem(item["jwks_url"])):
            self._note(f"jwks_url: {problem}", (*place, "jwks_url"))
        paths = {key: Path(item[key]) for key in ("jwks_file", "jwks_ca") if key in item}
        lists = {key: tuple(item[key]) for key in ("audiences", "algorithms") if key in item}
        return None if len(self.problems) > before else Issuer(**(item | paths | lists))

    def _entry(self, item: Any, at: int) -> Entry | None:
        place = ("callers", at)
        if not isinstance(item, dict):
            self._note("an entry is a mapping with identity, roles and groups", place)
            return None
        for key in item:
            if key not in _KEYS:
                self._note(f"{key!r} is not a key of an entry: there are {', '.join(sorted(_KEYS))}", (*place, key))
        pattern = self._pattern(item.get("identity"), place)
        claims = self._claims(item.get("claims", {}), pattern, place)
        grants = self._grants(item, place)
        return None if pattern is None or not grants else Entry(pattern, grants, claims)

    def _pattern(self, text: Any, place: tuple[str | int, ...]) -> IdentityPattern | None:
        if not isinstance(text, str):
            self._note("an entry needs an identity: spiffe://…, dns:…, cn:… or jwt:ISSUER/SUBJECT", place)
            return None
        try:
            pattern = parse_identity_pattern(text)
        except ValueError as error:
            self._note(f"identity: {text[:200]!r}: {error}", (*place, "identity"))
            return None
        if not pattern.kind:
            self._note("identity: * would be for everyone: name a kind and a pattern", (*place, "identity"))
            return None
        return pattern

    def _claims(self, claims: Any, pattern: IdentityPattern | None, place: tuple[str | int, ...]) -> dict[str, str]:
        if not isinstance(claims, dict) or not all(isinstance(each, str) for each in claims.values()):
            self._note("claims: write each as NAME: TEXT", (*place, "claims"))
            return {}
        if claims and pattern is not None and pattern.kind != "jwt:":
            self._note("claims: only tokens have claims: give an identity that begins with jwt:", (*place, "claims"))
        return claims

    def _grants(self, item: Mapping[str, Any], place: tuple[str | int, ...]) -> tuple[Grant, ...]:
        if "grants" not in item:
            return self._grant(item, place)
        if "roles" in item or "groups" in item:
            self._note("give grants, or roles and groups: not both", place)
        listed = item["grants"]
        if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
            self._note("grants: write a list of roles and groups", (*place, "grants"))
            return ()
        for at, each in enumerate(listed):
            if unknown := sorted(set(each) - {"roles", "groups"}):
                self._note(f"grants: {unknown[0]!r} is not roles or groups", (*place, "grants", at))
        return tuple(grant for at, each in enumerate(listed) for grant in self._grant(each, (*place, "grants", at)))

    def _grant(self, item: Mapping[str, Any], place: tuple[str | int, ...]) -> tuple[Grant, ...]:
        roles, groups = item.get("roles", []), item.get("groups", [])
        for key, value in (("roles", roles), ("groups", groups)):
            if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
                self._note(f"{key}: write a list of names", (*place, key))
                return ()
        if "groups" in item and not groups:
            self._note("groups: the list is empty; leave it out to mean all groups", (*place, "groups"))
            return ()
        found = grant_problems(roles, groups)
        for what in found:
            self._note(what, place)
        return () if found else (Grant(tuple(roles), tuple(groups)),)

    def _note(self, what: str, path: tuple[str | int, ...]) -> None:
        self.problems.append(Problem(what=what, file=self._file, line=self._document.line_of(path)))


def _has_claims(claims: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    """Return whether each wanted claim has the wanted text as its value, or in its list of values."""
    for name, text in wanted.items():
        value = claims.get(name)
        if text not in ([value] if isinstance(value, str) else value if isinstance(value, list) else []):
            return False
    return True
