"""Decides which group a node belongs to, by the rules of a group table.

Each rule is looked up by the longest text that a matching node must have at the beginning of its id, its cluster, a
metadata value or another part, so a decision costs O(rules that may match), not O(rules).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from fnmatch import translate
from typing import Any, NamedTuple

from xds.model.groups import DEFAULT_GROUP, GroupTable, Node, Patterns, Rule
from xds.model.identity import IdentityPattern, parse_identity_pattern

DECISIONS_MAX = 4_096
"""Maximum remembered decisions of a table."""
DECISION_CHARACTERS_MAX = 1_024
"""Decisions about longer values are not remembered: clients choose what their nodes say, up to 64 KB."""
NAMES_SHOWN_MAX = 5

PARTS = ("id", "cluster", "region", "zone", "sub_zone")
IDENTITY = ("identity", "")

Feature = tuple[str, str]
"""A part of a node that patterns look at: its name, and for ``metadata`` the path."""
Values = tuple[str, ...]
_GLOB_CHARACTERS = re.compile(r"[*?[]")
_PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)\}")


class Placement(NamedTuple):
    """Where a node belongs, and why."""

    group: str | None
    """None if the node is refused."""
    rule: int | None = None
    """The number of the deciding rule, from 1; None if no rule decided."""
    refusal: str = ""
    """Why the node is refused, with its id and its identity."""


class _Verdict(NamedTuple):
    group: str | None
    rule: int | None = None
    lacking: str = ""
    """The part of the node because of which it is refused."""


class Rules:
    """The rules of a table, compiled. They remember their last decisions, by the parts of nodes that they look at.

    The constructor raises ValueError if an identity, or a name in ``require``, can't be read.
    """

    __slots__ = ("_by_prefix", "_decisions", "_features", "_rules", "_table", "_unindexed")

    def __init__(self, table: GroupTable) -> None:
        self._table = table
        self._rules = [_compiled(number, rule) for number, rule in enumerate(table.rules, 1)]
        self._by_prefix: dict[Feature, dict[int, dict[str, list[int]]]] = {}
        self._unindexed: list[int] = []
        features: dict[Feature, None] = {}
        for number, rule in enumerate(self._rules):
            features.update(dict.fromkeys(rule.features))
            feature, prefix = rule.longest_prefix()
            if not prefix:
                self._unindexed.append(number)
                continue
            by_length = self._by_prefix.setdefault(feature, {})
            by_length.setdefault(len(prefix), {}).setdefault(prefix, []).append(number)
        self._features = tuple(features)
        self._decisions: dict[tuple[Values, ...], _Verdict] = {}

    def place(self, node: Node, known: Mapping[str, object]) -> Placement:
        """Return where a node belongs, if the groups ``known`` exist."""
        if not self._rules:
            if node.cluster in known:
                return Placement(node.cluster)
            return self._unmatched(node)
        values = tuple(_values(node, feature) for feature in self._features)
        verdict = self._decisions.get(values)
        if verdict is None:
            verdict = self._decide(dict(zip(self._features, values, strict=True)))
            if len(self._decisions) >= DECISIONS_MAX:
                self._decisions.clear()
            if sum(len(text) for each in values for text in each) <= DECISION_CHARACTERS_MAX:
                self._decisions[values] = verdict
        if verdict.lacking:
            what = f"rule {verdict.rule} gives its place to nodes with another {verdict.lacking}"
            return Placement(None, verdict.rule, f"{self._words_of(node)} is refused: {what}")
        if verdict.rule is None:
            return self._unmatched(node)
        return Placement(verdict.group, verdict.rule)

    def _unmatched(self, node: Node) -> Placement:
        if self._table.deny_unmatched:
            return Placement(None, refusal=f"no group takes {self._words_of(node)}")
        return Placement(DEFAULT_GROUP)

    @property
    def use_identities(self) -> bool:
        """Whether any rule looks at identities."""
        return IDENTITY in self._features

    def _words_of(self, node: Node) -> str:
        if node.identity:
            more = ", …" if len(node.identity) > NAMES_SHOWN_MAX else ""
            return f"node {node.id!r} with the identity {', '.join(node.identity[:NAMES_SHOWN_MAX])}{more}"
        return f"node {node.id!r} without an identity" if self.use_identities else f"node {node.id!r}"

    def _decide(self, values: Mapping[Feature, Values]) -> _Verdict:
        """Return the verdict of the first rule that matches.

        If none does, a node that some rule would take with another identity is refused, not put into ``default``.
        """
        claimed: int | None = None
        for number in sorted(self._candidates(values)):
            rule = self._rules[number]
            if not rule.takes(values):
                continue
            captured = rule.identity.match(values.get(IDENTITY, ()))
            if captured is None:
                if claimed is None and rule.has_tests:
                    claimed = number
                continue
            lacking = rule.lacking(values, captured)
            return _Verdict(None if lacking else rule.group, number + 1, lacking)
        return _Verdict(None) if claimed is None else _Verdict(None, claimed + 1, "identity")

    def _candidates(self, values: Mapping[Feature, Values]) -> Iterator[int]:
        yield from self._unindexed
        for feature, by_length in self._by_prefix.items():
            for value in dict.fromkeys(values[feature]):
                for length, by_prefix in by_length.items():
                    yield from by_prefix.get(value[:length], ())


def _compiled(number: int, rule: Rule) -> "_CompiledRule":
    try:
        return _CompiledRule(rule)
    except ValueError as error:
        raise ValueError(f"rule {number}: {error}") from None


class _CompiledRule:
    __slots__ = ("_required", "_tests", "group", "identity", "required_identity")

    def __init__(self, rule: Rule) -> None:
        self.group = rule.group
        self.identity = parse_identity_pattern(rule.identity)
        self.required_identity = parse_identity_pattern(rule.require.identity)
        self._tests = [(feature, _Glob(text)) for feature, text in _globs(rule)]
        self._required = list(_globs(rule.require))
        for _, template in self._required:
            check_template(template, self.identity)

    @property
    def has_tests(self) -> bool:
        """Whether it looks at anything but the identity."""
        return bool(self._tests)

    @property
    def features(self) -> Iterator[Feature]:
        """The parts of a node that it looks at."""
        yield from (feature for feature, _ in self._tests)
        yield from (feature for feature, _ in self._required)
        if self.identity.kind or self.required_identity.kind:
            yield IDENTITY

    def longest_prefix(self) -> tuple[Feature, str]:
        """Return the longest text that a part of a matching node begins with, and the part.

        Of a rule that looks at other parts too, the identity does not count: it must be found for any identity.
        """
        found = [(feature, glob.literal) for feature, glob in self._tests]
        if not found:
            found = [(IDENTITY, self.identity.literal)]
        return max(found, key=lambda each: len(each[1]))

    def takes(self, values: Mapping[Feature, Values]) -> bool:
        """Say whether it matches a node whose identity it would match."""
        return all(any(map(glob.matches, values[feature])) for feature, glob in self._tests)

    def lacking(self, values: Mapping[Feature, Values], captured: Mapping[str, str]) -> str:
        """Return the part of a node that it matches but that lacks what it requires, "" if nothing is lacking."""
        for feature, template in self._required:
            glob = _Glob(_PLACEHOLDER.sub(lambda found: _escaped(captured[found.group(1)]), template))
            if not any(map(glob.matches, values[feature])):
                name, path = feature
                return f"{name} {path}".strip()
        if self.required_identity.match(values.get(IDENTITY, ())) is None:
            return "identity"
        return ""


def check_template(template: str, identity: IdentityPattern) -> None:
    """Check that each ``{name}`` in a glob of ``require`` is a segment of the identity's pattern. Raises ValueError."""
    for name in _PLACEHOLDER.findall(template):
        if name not in identity.placeholders:
            known = ", ".join(f"{{{each}}}" for each in identity.placeholders) or "none"
            raise ValueError(f"{{{name}}} is no segment of the identity {identity.text!r} (it has {known})")


class _Glob:
    """A glob; case counts, as in ``fnmatch.fnmatchcase``. ``literal`` is what every matching text begins with."""

    __slots__ = ("_matches", "literal", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        wild = _GLOB_CHARACTERS.search(text)
        self.literal = text if wild is None else text[: wild.start()]
        self._matches: Callable[[str], Any] | None = None

    def matches(self, value: str) -> bool:
        """Say whether it matches a text."""
        if self.literal == self.text:
            return value == self.text
        if not value.startswith(self.literal):
            return False
        if len(self.text) == len(self.literal) + 1 and self.text.endswith("*"):
            return True
        if self._matches is None:  # only now: many rules are never compared with anything
            self._matches = re.compile(translate(self.text)).match
        return self._matches(value) is not None


def _globs(patterns: Patterns) -> Iterator[tuple[Feature, str]]:
    for part in PARTS:
        glob = getattr(patterns, part)
        if glob != "*":
            yield (part, ""), glob
    for path, glob in patterns.metadata.items():
        yield ("metadata", path), glob


def _escaped(text: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", text)


def _values(node: Node, feature: Feature) -> Values:
    name, path = feature
    if name == "metadata":
        return tuple(_metadata_text(value) for value in _metadata_values(node.metadata, path))
    if name == "identity":
        return node.identity
    if name in ("id", "cluster"):
        return (getattr(node, name),)
    return (getattr(node.locality, name),)


def _metadata_values(metadata: Any, path: str) -> Iterator[Any]:
    """Yield the values of a path. Keys may contain dots, as Kubernetes labels do (``app.kubernetes.io/name``)."""
    if not isinstance(metadata, Mapping):
        return
    if path in metadata:
        yield metadata[path]
    for end, character in enumerate(path):
        if character == "." and path[:end] in metadata:
            yield from _metadata_values(metadata[path[:end]], path[end + 1 :])


def _metadata_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # protobuf's Struct has only doubles
    return str(value)
