"""Whatever a library raises at bytes that others wrote is one kind of error."""

import pytest

from xds.model.untrusted import is_panic, reading


class PanicException(BaseException):  # as pyo3 names it
    """As the panic of a library written in Rust."""


@pytest.mark.parametrize("error", [ValueError("a"), KeyError("a"), UnicodeDecodeError("utf-8", b"", 0, 1, "a")])
def test_errors_of_libraries_are_value_errors(error: Exception) -> None:
    with pytest.raises(ValueError, match="a"), reading():
        raise error


def test_panics_are_value_errors() -> None:
    assert is_panic(PanicException())
    assert not is_panic(KeyboardInterrupt())
    with pytest.raises(ValueError, match="can't be read: at once"), reading():
        raise PanicException("at once")


@pytest.mark.parametrize("error", [FileNotFoundError, KeyboardInterrupt, SystemExit])
def test_files_that_are_not_there_and_ends_of_the_process_stay_what_they_are(error: type[BaseException]) -> None:
    with pytest.raises(error), reading():
        raise error
