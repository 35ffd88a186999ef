"""The judge of a server: every change passes it before it is kept."""

from collections.abc import Mapping
from dataclasses import dataclass

from xds.model.problem import Problem
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
