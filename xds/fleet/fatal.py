"""The end of a load process one of whose tasks died: a load that goes on without it would measure something else."""

import asyncio
import os
import sys
from collections.abc import Coroutine
from typing import Any, NoReturn

from xds.background import Background

EXIT_FAULT = 70
"""EX_SOFTWARE of sysexits.h."""


def start(tasks: "set[asyncio.Task[None]]", name: str, work: Coroutine[Any, Any, object]) -> "asyncio.Task[None]":
    """Do ``work`` beside the rest, in ``tasks`` until it ends. If it fails the process ends, and its parent is told."""
    task = Background().run(name, work, on_death=lambda why: _end(name, why))
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task


def _end(name: str, why: str) -> NoReturn:
    sys.stderr.write(f"{name} failed by a bug of the load: {why}\n")
    sys.stderr.flush()
    os._exit(EXIT_FAULT)
