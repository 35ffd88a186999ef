"""Read ``groups.yaml``: which nodes belong to which group, and which group extends which.

::

    groups:                     # groups without a directory, and the group that each extends
      canary: {extends: prod}
    rules:                      # the first match decides the node's group; all of `match` must match; globs
    - group: canary
      match: {id: "canary-*", cluster: web, locality: {region: eu, zone: "*", sub_zone: "*"}, metadata: {stage: beta}}
    - group: payments
      match: {identity: "spiffe://corp/ns/payments/sa/{sa}"}    # who the client has proven to be
      require: {id: "{sa}-*", metadata: {namespace: payments}}  # a node that matches and is not so is refused
    unmatched: deny             # or `default`: what to do with nodes that match no rule
    external: [clusters/local]  # resources from elsewhere (type/name, globs), so that references to them are valid
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from xds.model.closest import closest
from xds.model.groups import DEFAULT_GROUP, NO_PATTERNS, GroupTable, Patterns, Rule
from xds.model.identity import ANY_IDENTITY, IdentityPattern, parse_identity_pattern
from xds.model.names import group_name_problem
from xds.model.problem import Problem
from xds.model.rules import check_template
from xds.model.types import SHORT_NAMES
from xds.sources.yaml_reader import Document, PathKeys

_LOCALITY = ("region", "zone", "sub_zone")
_PATTERNS = ("identity", "id", "cluster", "locality", "metadata")


@dataclass(frozen=True, slots=True)
class GroupsFile:
    """The content of ``groups.yaml``: table, declared groups, and problems. With problems the table is incomplete."""

    table: GroupTable = field(default_factory=GroupTable)
    declared: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def parse_groups(document: Document, *, file: str, directories: Collection[str] | None) -> GroupsFile:
    """Read the rules. ``directories`` are the groups that exist already; if None, rules may name any group."""
    reading = _Reading(document, file, directories)
    table = reading.table()
    return GroupsFile(table, tuple(sorted(reading.declared)), tuple(reading.problems))


def groups_json(table: GroupTable) -> dict[str, Any]:
    """Return a table in the form that ``parse_groups`` reads."""
    return {
        "groups": {name: {"extends": base} for name, base in sorted(table.extends.items())},
        "rules": [_rule_json(rule) for rule in table.rules],
        "unmatched": "deny" if table.deny_unmatched else "default",
        "external": list(table.external),
    }


def _rule_json(rule: Rule) -> dict[str, Any]:
    written = {"group": rule.group, "match": _patterns_json(rule)}
    if rule.require != NO_PATTERNS:
        written["require"] = _patterns_json(rule.require)
    return written


def _patterns_json(patterns: Patterns) -> dict[str, Any]:
    keys = ("identity", "id", "cluster")
    written: dict[str, Any] = {key: getattr(patterns, key) for key in keys if getattr(patterns, key) != "*"}
    places = {key: getattr(patterns, key) for key in _LOCALITY}
    locality = {key: glob for key, glob in places.items() if glob != "*"}
    if locality:
        written["locality"] = locality
    if patterns.metadata:
        written["metadata"] = dict(patterns.metadata)
    return written


def suggestion(word: str, known: Iterable[str], *, kind: str) -> str:
    """Return a hint with the known names that are close to the word, or else with all known names."""
    words = sorted(known)
    if close := closest(word, words, count=2):
        return f"did you mean {' or '.join(close)}?"
    return f"{kind}: {', '.join(words[:20])}" if words else ""


class _Reading:
    def __init__(self, document: Document, file: str, directories: Collection[str] | None) -> None:
        self.problems: list[Problem] = []
        self.declared: set[str] = set()
        self._document, self._file = document, file
        self._known = {DEFAULT_GROUP, *(directories or ())}
        self._any_is_known = directories is None

    def table(self) -> GroupTable:
        top = self._mapping((), self._document.value, ("rules", "groups", "unmatched", "external"))
        extends = self._groups(top.get("groups"))
        rules = tuple(
            self._rule(("rules", at), rule) for at, rule in enumerate(self._list(("rules",), top.get("rules")))
        )
        unmatched = top.get("unmatched", "default")
        if unmatched not in ("default", "deny"):
            self._problem(f"{unmatched!r} is not a choice", "write default or deny", ("unmatched",))
        external = self._list(("external",), top.get("external"))
        return GroupTable(
            rules=rules,
            extends=extends,
            deny_unmatched=unmatched == "deny",
            external=tuple(self._external(("external", at), entry) for at, entry in enumerate(external)),
        )

    def _problem(self, what: str, hint: str, path: PathKeys) -> None:
        line = self._document.line_of(path) if path else 1
        name = ""
        for key in path:
            name += f"[{key}]" if isinstance(key, int) else f".{key}" if name else key
        self.problems.append(Problem(what=what, hint=hint, file=self._file, line=line, field=name))

    def _mapping(self, path: PathKeys, value: Any, keys: Collection[str] | None) -> Mapping[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            hint = f"write a mapping of {', '.join(keys)}" if keys else "write a mapping"
            self._problem(f"{_kind(value)} where a mapping belongs", hint, path)
            return {}
        for key in value if keys else ():
            if keys and key not in keys:
                self._problem(f"unknown key {key!r}", suggestion(key, keys, kind="known are"), (*path, key))
        return value

    def _list(self, path: PathKeys, value: Any) -> list[Any]:
        if value is None or isinstance(value, list):
            return value or []
        self._problem(f"{_kind(value)} where a list belongs", "begin each entry with '- '", path)
        return []

    def _groups(self, value: Any) -> dict[str, str]:
        groups = self._mapping(("groups",), value, None)
        self.declared.update(groups)
        self._known.update(groups)
        extends: dict[str, str] = {}
        for group, settings in groups.items():
            path = ("groups", group, "extends")
            if wrong := group_name_problem(str(group)):
                self._problem(wrong, "rename it", path[:2])
            base = self._mapping(path[:2], settings, ("extends",)).get("extends")
            if base is None:
                continue
            if not self._is_known(base):
                self._problem(f"extends the unknown group {base!r}", self._existing(base), path)
            else:
                extends[group] = base
        self._check_circles(extends)
        return extends

    def _check_circles(self, extends: dict[str, str]) -> None:
        reported: set[str] = set()
        for group in extends:
            chain = [group]
            while (base := extends.get(chain[-1])) is not None and base not in chain:
                chain.append(base)
            if base is not None and not reported & {*chain, base}:
                circle = " → ".join([*chain[chain.index(base) :], base])
                hint = "remove one of these extends"
                self._problem(f"extends itself: {circle}", hint, ("groups", base, "extends"))
            if base is not None:
                reported.update(chain)

    def _is_known(self, group: Any) -> bool:
        return isinstance(group, str) and (self._any_is_known or group in self._known)

    def _existing(self, group: Any) -> str:
        hint = suggestion(str(group), self._known, kind="groups are")
        return f"{hint}; to add a group, create its directory or list it under `groups:`"

    def _rule(self, path: PathKeys, value: Any) -> Rule:
        rule = self._mapping(path, value, ("group", "match", "require"))
        group = rule.get("group")
        if group is None:
            self._problem("a rule without a group", "name the group of the matching nodes: group: …", path)
        elif not self._is_known(group):
            self._problem(f"a rule for the unknown group {group!r}", self._existing(group), (*path, "group"))
        match = self._patterns((*path, "match"), rule.get("match"))
        require = self._patterns((*path, "require"), rule.get("require"))
        fields = {key: getattr(match, key) for key in (*_PATTERNS[:3], *_LOCALITY, "metadata")}
        self._check_templates((*path, "require"), require, match.identity)
        return Rule(group=str(group), **fields, require=require)

    def _patterns(self, path: PathKeys, value: Any) -> Patterns:
        match = self._mapping(path, value, _PATTERNS)
        locality = self._mapping((*path, "locality"), match.get("locality"), _LOCALITY)
        metadata = self._mapping((*path, "metadata"), match.get("metadata"), None)
        globs = {key: self._glob((*path, key), match.get(key, "*")) for key in ("id", "cluster")}
        places = {key: self._glob((*path, "locality", key), locality.get(key, "*")) for key in _LOCALITY}
        return Patterns(
            identity=self._identity((*path, "identity"), match.get("identity", ANY_IDENTITY)),
            **globs,
            **places,
            metadata={key: self._glob((*path, "metadata", key), glob) for key, glob in metadata.items()},
        )

    def _identity(self, path: PathKeys, value: Any) -> str:
        if not isinstance(value, str):
            self._problem(f"{_kind(value)} where an identity belongs", "as in spiffe://corp/ns/web/**", path)
            return ANY_IDENTITY
        try:
            return parse_identity_pattern(value).text
        except ValueError as error:
            self._problem(f"the identity {value!r} can't be matched: {error}", "as in spiffe://corp/ns/web/**", path)
            return ANY_IDENTITY

    def _check_templates(self, path: PathKeys, require: Patterns, identity: str) -> None:
        """Report the ``{name}`` in ``require`` that the identity in ``match`` does not have."""
        pattern: IdentityPattern = parse_identity_pattern(identity)
        places: dict[tuple[str, ...], str] = {("locality", key): getattr(require, key) for key in _LOCALITY}
        globs: dict[tuple[str, ...], str] = {("id",): require.id, ("cluster",): require.cluster, **places}
        globs |= {("metadata", key): glob for key, glob in require.metadata.items()}
        for keys, glob in globs.items():
            try:
                check_template(glob, pattern)
            except ValueError as error:
                self._problem(str(error), "name the segment in match.identity, as in {sa}", (*path, *keys))

    def _glob(self, path: PathKeys, value: Any) -> str:
        match value:
            case str():
                return value
            case bool():
                return "true" if value else "false"
            case int():
                return str(value)
            case dict() if "metadata" in path:
                hint = f"write the path with dots: {path[-1]}.{next(iter(value), 'key')}: …"
                self._problem("a mapping where a glob belongs", hint, path)
            case _:
                self._problem(f"{_kind(value)} where a glob belongs", "put the value in quotes", path)
        return ""

    def _external(self, path: PathKeys, value: Any) -> str:
        hint = "write type/name, as in clusters/passthrough or secrets/*"
        if not isinstance(value, str) or "/" not in value:
            self._problem(f"{value!r} is not of the form type/name", hint, path)
            return ""
        kind = value.rsplit("/", 1)[0] if value.startswith("type.googleapis.com/") else value.split("/", 1)[0]
        if kind not in SHORT_NAMES and not set(kind) & set("*?[."):
            self._problem(f"unknown type {kind!r}", suggestion(kind, SHORT_NAMES, kind="types are"), path)
        return value


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "nothing")
