"""Which signals a server process handles and which it ignores.

SIGTERM and SIGINT drain, SIGHUP reloads. Signals that end a process by default but are sent for other reasons, such as
SIGUSR1 from a script that rotates logs, are ignored. SIGQUIT, SIGABRT, fault signals, and those that stop and continue
a process keep their default meaning.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_NAMES = ("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGPWR", "SIGSTKFLT", "SIGPIPE", "SIGXFSZ")
HARMLESS = frozenset(
    {getattr(signal, name) for name in _NAMES if hasattr(signal, name)}
    | {number for number in signal.valid_signals() if signal.SIGRTMIN <= number <= signal.SIGRTMAX}
)
"""Signals that every process of a server ignores."""
ORDERS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""Signals that only the parent handles; it then messages the workers. Service managers send them to all processes."""


def ignore_in_parent() -> None:
    """Ignore the harmless signals, and SIGHUP until there is something to reload."""
    _ignore(HARMLESS | {signal.SIGHUP})


def ignore_in_worker() -> None:
    """Ignore the harmless signals and those for the parent, then unblock what ``held`` blocked."""
    _ignore(HARMLESS | ORDERS)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HARMLESS | ORDERS)


@contextmanager
def held() -> Iterator[None]:
    """Block these signals, also for processes started meanwhile: they would die of them before they can ignore them.

    Signals to this process are handled afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HARMLESS | ORDERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ignore(numbers: frozenset[int]) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
