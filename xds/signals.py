"""Which signals end a server process, and which do not.

SIGTERM and SIGINT drain, SIGHUP reloads. What by default ends a process although nobody means to end it by that, as
SIGUSR1 of a script that rotates logs, is ignored. SIGQUIT, SIGABRT and the signals of faults keep their meaning, as do
those that stop and continue a process.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_NAMES = ("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGPWR", "SIGSTKFLT", "SIGPIPE", "SIGXFSZ")
HARMLESS = frozenset(
    {getattr(signal, name) for name in _NAMES if hasattr(signal, name)}
    | {number for number in signal.valid_signals() if signal.SIGRTMIN <= number <= signal.SIGRTMAX}
)
"""Those that are ignored in every process of a server."""
ORDERS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""Those that are for the parent alone, which passes on what they mean; service managers send them to all processes."""


def ignore_in_parent() -> None:
    """Ignore the harmless ones, and SIGHUP until there is something to reload."""
    _ignore(HARMLESS | {signal.SIGHUP})


def ignore_in_worker() -> None:
    """Ignore those too that are for the parent, and let go of what ``held`` kept from a worker as it started."""
    _ignore(HARMLESS | ORDERS)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HARMLESS | ORDERS)


@contextmanager
def held() -> Iterator[None]:
    """Have processes that are started meanwhile begin with these signals blocked: until they ignore them, they die of
    them. Those that come to this process meanwhile are taken afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HARMLESS | ORDERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ignore(numbers: frozenset[int]) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
