"""What every revision of the store has, as replicas serve it, and the writes with their answers: nothing acknowledged
may be lost, nothing refused may be made, and all replicas must serve the same at a revision."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from simulation.content import Content, Key

from xds.publishing.changes import Change

States = Mapping[str, Mapping[Key, Content]]


@dataclass(eq=False)
class Write:
    """One change that an author makes, and what became of it.

    ``states``: the whole snapshots of groups afterwards, or, if ``merges``, some resources of them; ``groups``: the
    group of each node, None to leave them.
    """

    id: str
    change: Change
    states: States = field(default_factory=dict)
    groups: Mapping[str, str] | None = None
    merges: bool = False
    expected: int | None = None
    tries: int = 0
    open_tries: int = 0
    made_at: int | None = None
    """The revision that it was acknowledged at."""
    is_final: bool = False
    """Whether it is tried until it is made."""
    may_be_made: bool = False
    """Whether it was acknowledged, or the outcome of a try is unknown."""

    def labels(self) -> set[int]:
        """Return the labels of its resources' versions."""
        return {content.label for state in self.states.values() for content in state.values()}


class Ledger:
    """The revisions, in order, and the writes."""

    def __init__(self) -> None:
        self.revisions: dict[int, tuple[dict[str, Mapping[Key, Content]], dict[str, str]]] = {}
        self.writes: list[Write] = []

    @property
    def newest(self) -> int:
        """The newest revision that a replica served."""
        return max(self.revisions, default=0)

    def note(self, revision: int, states: States, groups: Mapping[str, str], by: str) -> None:
        """Record what a replica serves at a revision. Raises AssertionError if another one serves something else."""
        served = {group: dict(state) for group, state in states.items() if state}, dict(groups)
        known = self.revisions.setdefault(revision, served)
        assert known == served, f"{by} serves at revision {revision} {_differing(served, known)}"

    def acknowledge(self, write: Write, revision: int) -> None:
        """Record that a write was acknowledged. Raises AssertionError if the revision does not have it."""
        write.may_be_made = True
        write.made_at = revision
        if revision not in self.revisions:
            return  # replicas were sent a later state as a whole
        states, groups = self.revisions[revision]
        about = f"the change {write.id} was acknowledged at revision {revision}"
        if write.groups is not None:
            assert groups == write.groups, f"{about}, which has not its rules"
        for group, wanted in write.states.items():
            found = states.get(group, {})
            if write.merges:
                found = {key: found[key] for key in wanted if key in found}
                later = {label for other in self.writes if other.merges for label in other.labels()}
                lost = [
                    str(c) for key, c in wanted.items() if found.get(key) != c and _label(found.get(key)) not in later
                ]
            else:
                lost = [str(c) for key, c in {**found, **wanted}.items() if found.get(key) != wanted.get(key)]
            assert not lost, f"{about}, which has not {', '.join(sorted(lost))} of {group}"
        if write.expected is not None:
            for before in range(write.expected + 1, revision):
                for group in write.states:
                    changed = (
                        before in self.revisions
                        and before - 1 in self.revisions
                        and (self.revisions[before][0].get(group) != self.revisions[before - 1][0].get(group))
                    )
                    assert not changed, f"{about}, though it expected {write.expected} and {group} changed at {before}"

    def check(self) -> None:
        """Raise AssertionError if a refused change was made, or a change is not answered."""
        waiting = [write.id for write in self.writes if write.open_tries]
        assert not waiting, f"the change {waiting[0]} was never answered"
        may_be = {label for write in self.writes if write.may_be_made for label in write.labels()}
        refused = {label: write for write in self.writes if not write.may_be_made for label in write.labels() - may_be}
        for revision, (states, _) in self.revisions.items():
            for state in states.values():
                for content in state.values():
                    write = refused.get(content.label)
                    assert write is None, (
                        f"the change {write.id} was refused, and revision {revision} has its {content}"
                    )


def _label(content: Content | None) -> int:
    return -1 if content is None else content.label


def _differing(served: tuple[States, Mapping[str, str]], known: tuple[States, Mapping[str, str]]) -> str:
    if served[1] != known[1]:
        return f"the rules {served[1]} instead of {known[1]}"
    for group in sorted({*served[0], *known[0]}):
        one, other = served[0].get(group, {}), known[0].get(group, {})
        for key in sorted({*one, *other}):
            if one.get(key) != other.get(key):
                return f"{one.get(key)} instead of {other.get(key)} in {group}"
    return "the same"
