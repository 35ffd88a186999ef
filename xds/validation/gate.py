"""The judge of a server: every change passes it before it is kept, and it finds what clients reject."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from xds.model.problem import Problem
from xds.model.resource import Resource
from xds.model.snapshot import Snapshot
from xds.validation.errors import EnvoyUnusableError
from xds.validation.judge import Judge, Judgement, joined


@dataclass(frozen=True, slots=True)
class EnvoyGate:
    """Judges the groups that a change leads to. ``refuses``: whether problems refuse the change, or only warn."""

    judge: Judge
    refuses: bool

    def __call__(self, groups: Mapping[str, Snapshot]) -> Judgement:
        """Return what an Envoy says of groups. Takes a tenth of a second at least: call it in a thread."""
        try:
            return joined(self.judge.judge(each.resources(), group=group) for group, each in sorted(groups.items()))
        except EnvoyUnusableError as error:
            hint = "mend it, or set validation.envoy to off"
            return Judgement(problems=(Problem(what=f"can't be judged by Envoy: {error}", hint=hint),))


@dataclass(frozen=True, slots=True)
class NackJudge:
    """Finds the resources of a rejected response that an Envoy refuses. ``snapshot_of``: the present one of a group."""

    judge: Judge
    snapshot_of: Callable[[str], Snapshot | None]

    def __call__(self, group: str, type_url: str, resources: tuple[Resource, ...]) -> dict[str, str]:
        """Return the names of the refused ones with Envoy's words, beside the other resources that the group has now.

        Takes a tenth of a second at least: call it in a thread. Raises EnvoyUnusableError.
        """
        snapshot = self.snapshot_of(group)
        found = {(each.type_url, each.name): each for each in snapshot.resources()} if snapshot is not None else {}
        found |= {(type_url, each.name): each for each in resources}
        suspects = {each.name for each in resources}
        return self.judge.blame(found.values(), type_url, suspects, group=group)
