import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import quick_xds

XDS = str(Path(sys.executable).parent / "xds")
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("XDS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def xds(tmp_path: Path) -> Run:
    """Run the command ``xds`` in a process of its own (a fork, ``quick_xds``), in an empty directory, until it ends."""

    def run(*arguments: str | Path, **env: str) -> "subprocess.CompletedProcess[str]":
        argv = [quick_xds.program(), *map(str, arguments)]
        return subprocess.run(
            argv, capture_output=True, text=True, timeout=60, cwd=tmp_path, env={**os.environ, **env}, check=False
        )

    return run


@pytest.fixture
def _logs_as_before() -> Iterator[None]:
    """Undo the effects of ``configure_logging`` on the process."""
    import logging

    import structlog

    root, ours = logging.getLogger(), logging.getLogger("xds")
    before = (root.handlers[:], root.level, ours.level)
    yield
    root.handlers[:], root.level, ours.level = before
    logging.captureWarnings(False)
    structlog.reset_defaults()
