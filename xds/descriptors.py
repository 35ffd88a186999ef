"""Room for as many connections as a process is to have: the limit of open files. It opens none."""

import resource


def make_room(needed: int) -> None:
    """Raise the limit of open files, if it is lower, as far as the system allows; child processes inherit it.

    Raises ValueError saying what to do where that is not enough.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    infinite = resource.RLIM_INFINITY
    if soft == infinite or soft >= needed:
        return
    if hard != infinite and hard < needed:
        raise ValueError(
            f"each worker process needs {needed:,} open files, and may have {hard:,}; "
            f"run `ulimit -n {needed}` first, or use more --workers"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def make_all_room() -> int:
    """Raise the limit of open files as far as the system allows; return what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
