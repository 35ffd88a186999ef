"""How a server's worker processes are: which serve, which do not answer, how many are being replaced."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkersState:
    """``serving`` workers take streams and answer; ``silent`` ones are there but do not answer; others are ``missing``.

    A silent worker may be stopped or overloaded: the streams that it has get no changes, and who connects may wait.
    """

    serving: int = 0
    silent: tuple[str, ...] = ()
    missing: int = 0

    @property
    def usable(self) -> bool:
        """Whether somebody takes new streams: without worker processes, the server's own process does."""
        return self.serving > 0 or not (self.silent or self.missing)

    @property
    def problem(self) -> str:
        """What is wrong, for people; "" if nothing is."""
        problems = []
        if self.silent:
            verb = "does" if len(self.silent) == 1 else "do"
            problems.append(f"{', '.join(self.silent)} {verb} not answer")
        if self.missing:
            count = self.serving + len(self.silent) + self.missing
            problems.append(f"{self.missing} of {count} workers {'is' if self.missing == 1 else 'are'} being replaced")
        return "; ".join(problems)
