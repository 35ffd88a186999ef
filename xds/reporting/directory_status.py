"""Whether the followed directory is what is served: when its content was last applied, and why it is rejected now."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from xds.model.problem import Problem


class DirectoryStatus:
    """The status of a followed directory. ``clock`` returns seconds since 1970."""

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.root = root
        self._clock = clock
        self.applied_at_s = 0.0
        """When the directory's content was last applied, or found to be what is served; 0: not since the start."""
        self.rejected_since_s = 0.0
        """Since when its content has been rejected; 0 while it is not."""
        self.problems: tuple[Problem, ...] = ()
        """The problems of its present content."""
        self.unwatched_because = ""
        """Why its changes can't be noticed at present, "" if they can."""

    def note_applied(self) -> None:
        """Note that the directory's content is what is served."""
        self.applied_at_s, self.rejected_since_s, self.problems = self._clock(), 0.0, ()

    def note_rejected(self, problems: tuple[Problem, ...]) -> None:
        """Note that the directory's content is rejected, for problems that may differ from those before."""
        self.rejected_since_s, self.problems = self.rejected_since_s or self._clock(), problems

    @property
    def is_rejected(self) -> bool:
        """Whether the present content is rejected."""
        return bool(self.rejected_since_s)

    @property
    def why(self) -> str:
        """Why the directory is not what is served, with the place of the first problem; "" if it is.

        It has no text of the problems, which may quote the files.
        """
        told = []
        if self.is_rejected:
            told.append(self._rejected(f"the directory {self.root}", f"first at {_place(self.problems[0])}"))
        if self.unwatched_because:
            told.append(f"the directory {self.root} can't be watched: {self.unwatched_because}")
        return "; ".join(told)

    @property
    def told_to_anyone(self) -> str:
        """The same without paths and names of resources, with the group of the first problem."""
        told = []
        if self.is_rejected:
            group = self.problems[0].group
            told.append(self._rejected("the directory", f"first in the group {group!r}" if group else ""))
        if self.unwatched_because:
            told.append("the directory can't be watched")
        return "; ".join(told)

    def _rejected(self, directory: str, first: str) -> str:
        count = len(self.problems)
        what = f"{count:,} problem{'' if count == 1 else 's'}{first and f', {first}'}"
        return f"{directory} is rejected since {_when(self.rejected_since_s)} ({what}): its last good state is served"


def _place(problem: Problem) -> str:
    return f"{problem.file}:{problem.line}" if problem.line else problem.file or problem.resource or "the rules"


def _when(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
