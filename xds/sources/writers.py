"""Say whether somebody has a file open for writing. It never waits for them."""

import fcntl
import os
import signal
import sys


def is_being_written(path: str) -> bool:
    """Say whether the file is open for writing; False also where that can't be told.

    Linux grants a read lease on a file only while nobody has it open for writing (fcntl(2), F_SETLEASE). The lease is
    given back at once. It is refused to others than the file's owner and root, and by some file systems. A writer that
    opens the file in these microseconds is held up as long, and the kernel tells us by a signal, which is made one
    that is ignored unless handled: the default, SIGIO, would end this process.
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
