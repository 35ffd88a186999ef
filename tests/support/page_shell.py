"""Runs the blocks of a page in their order, as a reader at a terminal would.

- ``sh``: run until it ends, in a new shell. Commands that only read are repeated until they succeed and print the
  expected output, since a reader is slower than a test.
- ``sh`` with a title (``Terminal 2``): runs while the page goes on. Another block with that title first sends Ctrl-C; a
  block with only a comment is Ctrl-C alone.
- ``text`` after an ``sh`` block: its expected output, with ``…`` for parts that differ between runs (``is_as_said``).
- any other with a title: a file of that name, unless it is an absolute path.
- ``console``: not run.

Each run has its own loopback address, which replaces 127.0.0.1 and 0.0.0.0 everywhere; ports are unchanged.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from support import quick_xds
from support.pages import ROOT, Block
from support.processes import Child
from support.waiting import NotMetError, wait_until_blocking

BIN = Path(sys.executable).parent
READING = re.compile(
    r"curl (?!.*(-X|-d|--data|--request|-T)\b)"
    r"|xds (get|status|nodes?|explain|wait|history|diff|validate|route|config)\b"
    r"|xds groups$|xds store check|etcdctl (endpoint|get)\b|promtool (check|query|test)\b"
    r"|(cat|grep|ls|openssl verify|openssl x509|sort|test)\b|#"
)
"""Commands that change nothing, and can be repeated."""
PATIENCE_S, POLL_S = 30.0, 0.05
STEP_S = 120.0
"""Timeout of a block that is run once."""
CTRL_C_S = 30.0
LOOPBACK = re.compile(r"\b(?:127\.0\.0\.1|0\.0\.0\.0)\b")
_numbers = count(1)


class PageShell:
    """Runs blocks in ``directory``, which contains the repository's ``snapshots``."""

    def __init__(self, directory: Path) -> None:
        pid = os.getpid()
        self.address = f"127.{64 + pid // 250 % 64}.{1 + pid % 250}.{next(_numbers)}"
        self.directory = directory
        self.env = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": str(directory / "home"),
            "USER": "ann",
            "XDG_STATE_HOME": str(directory / "home" / "state"),
            "XDS_LISTEN": f"{self.address}:18000",
            "XDS_ADMIN": f"{self.address}:19000",
            "XDS_API__LISTEN": f"{self.address}:18001",
            "XDS_PUSH_ADDRESS": f"{self.address}:18001",
            "XDS_TRANSPORT__WORKERS": "1",
            "NO_COLOR": "1",
            "COLUMNS": "160",
        }
        self.terminals: dict[str, Child] = {}
        self._take_in(ROOT / "snapshots", directory / "snapshots")

    def _take_in(self, source: Path, target: Path) -> None:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        for path in target.rglob("*"):
            if path.is_file() and path.suffix != ".pem":
                path.write_text(self.local(path.read_text()))

    def local(self, text: str) -> str:
        """Return text with 127.0.0.1 and 0.0.0.0 replaced by this run's address."""
        return LOOPBACK.sub(self.address, text)

    def run(self, blocks: Sequence[Block]) -> None:
        """Run blocks, one after the other."""
        for at, block in enumerate(blocks):
            after = blocks[at + 1] if at + 1 < len(blocks) else None
            prints = self.local(after.text) if after and after.language == "text" and not after.title else None
            match block.language, block.title:
                case "sh", "":
                    self._step(block, prints)
                case "sh", title if title.startswith("Terminal "):
                    self._open(title, block)
                case (("console" | "text"), _):
                    pass
                case _, title if title and not title.startswith("/"):
                    path = self.directory / title
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(self.local(block.text))

    def _step(self, block: Block, prints: str | None) -> None:
        lines = [line for line in block.text.replace("\\\n", " ").splitlines() if line]
        if not all(READING.match(line) for line in lines):
            status, said = self._run(block.text, STEP_S)
            assert status == 0, self._failure(block, f"ended with {status}", said)
            assert prints is None or is_as_said(said, prints), self._failure(block, f"was to print\n{prints}", said)
            return

        # They are repeated until they say it, so each is a fork.
        env = self.env | {"PATH": f"{quick_xds.program().parent}:{self.env['PATH']}"}

        def is_met_by(outcome: tuple[int, str]) -> bool:
            status, said = outcome
            return status == 0 if prints is None else is_as_said(said, prints)  # a page may show a failing command

        try:
            wait_until_blocking(
                lambda: self._run(block.text, STEP_S, env), is_met_by, timeout_s=PATIENCE_S, poll_s=POLL_S
            )
        except NotMetError as missed:
            status, said = missed.seen
            raise AssertionError(self._failure(block, f"ended with {status}, was to print\n{prints}", said)) from None

    def _run(self, script: str, timeout_s: float, env: dict[str, str] | None = None) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-eu", "-c", self.local(script)],
            cwd=self.directory,
            env=env or self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return done.returncode, done.stdout

    def _open(self, title: str, block: Block) -> None:
        if title in self.terminals:
            self._ctrl_c(title)
        if all(line.startswith("#") for line in block.text.splitlines()):
            return
        script = f"cd {self.directory}\n{self.local(block.text)}"
        child = Child(["bash", "-eu", "-c", script], name=title.lower().replace(" ", "-"))
        child.env = dict(self.env)
        self.terminals[title] = child.start()
        if "xds serve" in block.text or "make run" in block.text:
            self._wait_serving(block, child)

    def _ctrl_c(self, title: str) -> None:
        child = self.terminals.pop(title)
        assert child.running, f"{title} has ended by itself:\n{child.log_tail()}"
        child.signal(signal.SIGINT)
        child.process.wait(CTRL_C_S)
        self._look_over(title, child)

    def _wait_serving(self, block: Block, child: Child) -> None:
        def serves() -> bool:
            assert child.running, f"{block.place} ended:\n{child.log_tail()}"
            return "\ntry next\n" in child.log()

        try:
            wait_until_blocking(serves, timeout_s=PATIENCE_S, poll_s=POLL_S)
        except NotMetError:
            raise AssertionError(f"{block.place} does not serve:\n{child.log_tail()}") from None

    def _failure(self, block: Block, what: str, said: str) -> str:
        logs = "".join(f"\n--- {title}\n{child.log_tail()}" for title, child in self.terminals.items())
        return f"{block.place}:\n{block.text}\n{what}\n--- it printed\n{said}{logs}"

    @staticmethod
    def _look_over(title: str, child: Child) -> None:
        for trouble in ("Traceback", "bug in this server"):
            assert trouble not in child.log(), f"{title}:\n{child.log_tail()}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        over = {title: child for title, child in self.terminals.items() if not child.running}
        ended = {title: child.log_tail() for title, child in over.items() if child.process.returncode}
        for child in self.terminals.values():
            child.stop(timeout_s=CTRL_C_S)
        if error is None:
            assert not ended, f"failed: {ended}"
            for title, child in self.terminals.items():
                self._look_over(title, child)


def is_as_said(said: str, prints: str) -> bool:
    """Return whether output matches a page's, except for the number of spaces and for ``…``.

    ``…`` matches anything on its line; alone on a line, any number of lines.
    """
    lines = ("(?:.*\\n)*?" if line == "…" else _pattern(line) for line in _even(prints).splitlines())
    return re.fullmatch("".join(lines), _even(said)) is not None


def _pattern(line: str) -> str:
    return ".*".join(map(re.escape, line.split("…"))) + "\\n"


def _even(text: str) -> str:
    return "".join(" ".join(line.split()) + "\n" for line in text.strip().splitlines())
