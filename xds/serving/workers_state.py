"""The state of a server's worker processes: serving, silent, or being replaced."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkersState:
    """The state of the worker processes; all zero without any."""

    serving: int = 0
    """Workers that take streams and answer the parent."""
    silent: tuple[str, ...] = ()
    """Workers that run but do not answer: stopped or overloaded.

    Their streams get no changes, and clients that connect to them may wait.
    """
    missing: int = 0
    """Workers that are being replaced."""

    @property
    def usable(self) -> bool:
        """Whether new streams are accepted. Without worker processes, the server's own process accepts them."""
        return self.serving > 0 or not (self.silent or self.missing)

    @property
    def problem(self) -> str:
        """A description of what is wrong, "" if nothing is."""
        problems = []
        if self.silent:
            verb = "does" if len(self.silent) == 1 else "do"
            problems.append(f"{', '.join(self.silent)} {verb} not answer")
        if self.missing:
            count = self.serving + len(self.silent) + self.missing
            problems.append(f"{self.missing} of {count} workers {'is' if self.missing == 1 else 'are'} being replaced")
        return "; ".join(problems)
