"""Problems of a changeset, with what its author needs to fix them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One reason why a changeset is rejected.

    ``what`` describes the problem and ``hint`` how to fix it; the other fields locate it. ``line`` counts from 1.
    ``resource`` reads ``clusters/web``; ``field`` is a path in Envoy's JSON (``load_assignment.endpoints[0]``).
    ``suggests`` is the resource that ``hint`` names, if it names one.
    """

    what: str
    hint: str = ""
    file: str = ""
    line: int = 0
    group: str = ""
    resource: str = ""
    field: str = ""
    suggests: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file and self.line else self.file
        subject = " ".join(part for part in (self.group and f"[{self.group}]", self.resource, self.field) if part)
        text = ": ".join(part for part in (place, subject, self.what) if part)
        return f"{text} ({self.hint})" if self.hint else text


def place_of(source: str) -> tuple[str, int]:
    """Return the file and line of a resource's ``source``; line 0 if it has none."""
    file, colon, line = source.rpartition(":")
    return (file, int(line)) if colon and line.isdecimal() else (source, 0)


class ChangesetRejectedError(Exception):
    """A changeset was rejected, and nothing of it applied. ``problems`` lists all of its problems."""

    problems: tuple[Problem, ...]

    def __init__(self, problems: "tuple[Problem, ...] | list[Problem]") -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        super().__init__(f"{count} problem{'s' if count != 1 else ''}: " + "; ".join(map(str, self.problems[:20])))
