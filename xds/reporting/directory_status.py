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

        ``/readyz`` shows it to anyone, so it has no text of the problems, which may quote the files.
        """
        told = []
        if self.is_rejected:
            count = len(self.problems)
            what = f"{count:,} problem{'' if count == 1 else 's'}, first at {_place(self.problems[0])}"
            told.append(
                f"the directory {self.root} is rejected since {_when(self.rejected_since_s)} ({what}): "
                "its last good state is served"
            )
        if self.unwatched_because:
            told.append(f"the directory {self.root} can't be watched: {self.unwatched_because}")
        return "; ".join(told)


def _place(problem: Problem) -> str:
    return f"{problem.file}:{problem.line}" if problem.line else problem.file or problem.resource or "the rules"


def _when(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
