"""Core dumps of this process and its children, which have all of their memory, every secret included."""

import resource

LIMIT_BYTES = 1
"""Less than a page, so that no file is written. With 0 a program that core dumps are piped to would still get them;
a limit of 1 stops the kernel from starting it (Linux, fs/coredump.c)."""


def forbid_core_dumps() -> None:
    """Have the kernel write no core dump of this process and of those that it starts from now on."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    most = LIMIT_BYTES if hard == resource.RLIM_INFINITY else min(LIMIT_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_CORE, (most, most))
