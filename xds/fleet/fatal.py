"""Ends a load process if one of its tasks fails: a load without that task would measure something else."""

import asyncio
import os
import sys
from collections.abc import Coroutine
from typing import Any, NoReturn

from xds.process.background import Background

EXIT_FAULT = 70
"""EX_SOFTWARE of sysexits.h."""


def start(tasks: "set[asyncio.Task[None]]", name: str, work: Coroutine[Any, Any, object]) -> "asyncio.Task[None]":
    """Start a task for ``work``, kept in ``tasks`` until it ends. If it fails, the process reports that and ends."""
    task = Background().run(name, work, on_death=lambda why: _end(name, why))
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task


def _end(name: str, why: str) -> NoReturn:
    sys.stderr.write(f"{name} failed by a bug of the load: {why}\n")
    sys.stderr.flush()
    os._exit(EXIT_FAULT)
