"""Core dumps of this process and its children, which have all of their memory, every secret included."""

import resource
from contextlib import suppress

LIMIT_BYTES = 1
"""Less than a page, so that no file is written. With 0 a program that core dumps are piped to would still get them;
a limit of 1 stops the kernel from starting it (Linux, fs/coredump.c)."""


def forbid_core_dumps() -> None:
    """Have the kernel write no core dump of this process and of those that it starts from now on.

    A hard limit of 0 is raised to 1 where the process may do so: only ``root`` and CAP_SYS_RESOURCE may.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (LIMIT_BYTES, LIMIT_BYTES))
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
