"""Check whether a file is open for writing, without blocking."""

import fcntl
import os
import signal
import sys


def is_being_written(path: str) -> bool:
    """Return whether any process has the file open for writing, False also if that can't be determined.

    Linux grants a read lease on a file only while no process has it open for writing (fcntl(2), F_SETLEASE). The lease
    is released at once. Only the file's owner and root can get one, and not on all file systems. A process that opens
    the file for writing in these microseconds is blocked until the release, and the kernel sends us a signal. It is set
    to SIGURG, which is ignored by default: the default SIGIO would end this process.
    """
    if sys.platform != "linux":
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False
