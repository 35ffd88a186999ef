"""What a node's resources tell a caller that may not read all groups that the node's group extends.

A resource needs the right of the group that has it, not of the group that inherits it. Whose a resource is that nobody
has any more is looked up in the revision that the node has accepted; where that does not tell, it is not shown.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from xds.model.catalog import Catalog
from xds.model.consistency import add_it
from xds.model.groups import lineage_of
from xds.model.problem import Problem
from xds.model.types import CLUSTER, ENDPOINTS, type_url_of
from xds.protocol.blame import BlamedBy, named_in
from xds.protocol.inspection import Held, InspectedClient, NackSeen, Standing, Waiting
from xds.protocol.status import NAMES_SHOWN_MAX, NodeSummary, TypeSummary
from xds.publishing.codec import Operations, restored
from xds.store.entries import Key

Sees = Callable[[str], bool]
ABOUT_INHERITED = "(it is about resources that the group inherits from groups that you may not read)"
"""Instead of the message of a NACK."""
_TYPE = "type.googleapis.com/"


class Inherited:
    """Says which of the resources that the nodes of a group get are told to a caller.

    ``sees`` says which groups the caller may read. ``before`` has the resources of a former ``revision``.
    """

    def __init__(
        self, catalog: Catalog, group: str, sees: Sees, before: Mapping[Key, bytes] | None = None, revision: int = 0
    ) -> None:
        self._catalog = catalog
        self._lineage = lineage_of(catalog.table, group)
        self._sees = sees
        self._before = before or {}
        self._revision = revision

    @property
    def hides(self) -> bool:
        """Whether the caller may not read all groups that the group extends."""
        return not all(map(self._sees, self._lineage))

    def is_seen(self, type_url: str, name: str) -> bool:
        """Return whether the group that has a resource, or had it, is one that the caller may read."""
        for group in self._lineage:
            if self._catalog.own_resource(group, type_url, name) is not None:
                return self._sees(group)
        for group in self._lineage:
            if Key(group, type_url, name) in self._before:
                return self._sees(group)
        return False

    def needs_before(self, client: InspectedClient) -> bool:
        """Return whether a former revision says more of what a client has."""
        had = [(each.type_url, each.name, each.sent or each.accepted) for each in client.standings]
        return bool(client.differences) or any(
            version and not self._is_there(type_url, name) for type_url, name, version in had
        )

    def _is_there(self, type_url: str, name: str) -> bool:
        return any(self._catalog.own_resource(group, type_url, name) is not None for group in self._lineage)

    def _hides_problem_of(self, label: str, asked: Operations) -> bool:
        """Return whether a resource, as a problem of a change names it, is one that the caller may not know of.

        What counts is the group that has it after the change. A resource that no group has then is one of the change.
        """
        kind, _, name = label.partition("/")
        type_url = type_url_of(kind)
        for group in self._lineage:
            now = self._catalog.own_resource(group, type_url, name)
            if asked.get(Key(group, type_url, name), now) is not None:
                return not self._sees(group)
        return False

    def problem(self, problem: Problem, asked: Callable[[], Operations]) -> Problem | None:
        """Return a problem of the group, None if it is of a hidden resource; a hidden one is not suggested either.

        ``asked`` returns what the change sets and removes that has the problem.
        """
        if self._hides_problem_of(problem.resource, asked()):
            return None
        if problem.suggests and self._hides_problem_of(problem.suggests, asked()):
            return replace(problem, hint=add_it("it"), suggests="")
        return problem

    # --- What is told ------------------------------------------------------------------------------------------------

    def client(self, client: InspectedClient) -> InspectedClient:
        """Return a client with the resources that are told."""
        standings = (self.standing(each) for each in client.standings)
        differences = (self._held(each) for each in client.differences if self.is_seen(each.type_url, each.name))
        return replace(
            client,
            summary=self.summary(client.summary),
            standings=tuple(each for each in standings if each is not None),
            differences=tuple(differences),
        )

    def standing(self, standing: Standing) -> Standing | None:
        """Return how a client stands to a resource, None if that is not told."""
        is_anything = standing.sent or standing.accepted != "" or standing.wanted
        if is_anything and not self.is_seen(standing.type_url, standing.name):
            return None
        return replace(standing, waits=tuple(map(self._waiting, standing.waits)))

    def _waiting(self, waiting: Waiting) -> Waiting:
        return waiting._replace(names=tuple(filter(self._is_word_seen, waiting.names)))

    def _is_word_seen(self, word: str) -> bool:
        """Return whether what a change waits for is told: a type, ``type name``, or the name of a cluster."""
        if not word.startswith(_TYPE):
            return self.is_seen(CLUSTER, word) or (not self._is_there(CLUSTER, word) and self.is_seen(ENDPOINTS, word))
        type_url, _, name = word.partition(" ")
        return not name or self.is_seen(type_url, name)

    def _held(self, held: Held) -> Held:
        """Return a difference; what a client has is left out unless a group that the caller may read has or had it."""
        if held.has is None or self._is_version_seen(held):
            return held
        return replace(held, has=None, has_version=None)

    def _is_version_seen(self, held: Held) -> bool:
        for group in filter(self._sees, self._lineage):
            key = Key(group, held.type_url, held.name)
            now, then = self._catalog.own_resource(*key), self._before.get(key)
            if now is not None and now.version == held.has_version:
                return True
            if then is not None and restored(key, then, f"revision {self._revision}").version == held.has_version:
                return True
        return False

    def summary(self, summary: NodeSummary) -> NodeSummary:
        """Return a node with what it rejected as far as it is told."""
        if not any(each.nacked or each.error for each in summary.types):
            return summary
        return replace(summary, types=tuple(map(self._type, summary.types)))

    def _type(self, told: TypeSummary) -> TypeSummary:
        names = {*told.nacked, *told.blamed, *told.versions}
        seen = {name for name in names if self.is_seen(told.type_url, name)}
        is_whole = len(told.nacked) < NAMES_SHOWN_MAX
        if seen == names and is_whole:
            return told
        is_told = is_whole and _is_about(told.error, told.blamed, seen, names)
        return replace(
            told,
            nacked=_those(told.nacked, seen),
            error=told.error if is_told or not told.error else ABOUT_INHERITED,
            versions={name: version for name, version in told.versions.items() if name in seen},
            blamed=_those(told.blamed, seen),
            blamed_by=told.blamed_by if is_told else BlamedBy.UNKNOWN,
        )

    def nack(self, nack: NackSeen) -> NackSeen:
        """Return a NACK as far as it is told."""
        seen = {name for name in nack.names if self.is_seen(nack.type_url, name)}
        is_whole = nack.count == len(nack.names)
        if is_whole and seen.issuperset(nack.names):
            return nack
        blamed = named_in(nack.message, nack.names)
        is_told = is_whole and _is_about(nack.message, blamed, seen, nack.names)
        names = _those(nack.names, seen)
        return replace(nack, names=names, count=len(names), message=nack.message if is_told else ABOUT_INHERITED)


def _is_about(message: str, blamed: Iterable[str], seen: set[str], names: Iterable[str]) -> bool:
    """Return whether the message of a NACK blames resources that are told, and names no other of its response."""
    blamed = set(blamed)
    return bool(blamed) and blamed <= seen and not any(name in message for name in names if name not in seen)


def _those(names: Iterable[str], seen: set[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name in seen)
