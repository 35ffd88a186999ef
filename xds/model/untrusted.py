"""What libraries raise at bytes that others wrote, as one kind of error.

A parser may raise anything. One that is written in Rust may even panic, which Python sees as an exception that is no
``Exception``: it passes every usual handler, and ends a task, or the process.
"""

from collections.abc import Iterator
from contextlib import contextmanager


def is_panic(error: BaseException) -> bool:
    """Return whether an exception is the panic of a library written in Rust, by the only name that they share."""
    return type(error).__name__ == "PanicException"


@contextmanager
def reading() -> Iterator[None]:
    """Raise ValueError for whatever a library raises in the block, a panic too. OSError stays as it is."""
    try:
        yield
    except (OSError, ValueError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise ValueError(f"can't be read: {error}") from None
