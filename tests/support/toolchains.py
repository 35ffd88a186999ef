"""What a test does whose toolchain (Go, Java) is not on this machine: it is skipped, or fails where CI is set."""

import os
from typing import NoReturn

import pytest


def without(missing: Exception) -> NoReturn:
    """Skip the test for want of a toolchain; in CI, whose set-up installs them all (``.ci/run``), fail it instead."""
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(f"{missing} (a skip, if CI were not set)", pytrace=False)
    pytest.skip(str(missing))
