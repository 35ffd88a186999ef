"""Makes room for as many connections as a process is to have. It opens none."""

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
