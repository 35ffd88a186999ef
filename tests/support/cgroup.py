"""A memory cgroup of its own for a process under test, on machines where one may be made (v2 or v1)."""

import contextlib
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pytest

V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
EATER = (
    "import sys\nheld = []\nfor line in sys.stdin:\n    held.append(b'x' * int(line))\n    print('held', flush=True)\n"
)


class MemoryCgroup:
    """``with MemoryCgroup(bytes) as cgroup: cgroup.argv(["xds", "serve"])``; skips the test where none can be made."""

    def __init__(self, limit_bytes: int) -> None:
        v1 = (V1 / "memory.limit_in_bytes").exists()
        self._limit = "memory.limit_in_bytes" if v1 else "memory.max"
        self._used = "memory.usage_in_bytes" if v1 else "memory.current"
        self._limit_bytes = limit_bytes
        self.path = (V1 if v1 else V2) / f"xds-test-{uuid.uuid4().hex[:8]}"
        self._eater: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        try:
            self.path.mkdir()
            (self.path / self._limit).write_text(str(self._limit_bytes))
        except OSError as error:
            self._remove()
            pytest.skip(f"no memory cgroup can be made here: {error}")
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._remove()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def argv(self, argv: Sequence[str]) -> list[str]:
        """Return a command that joins the cgroup, and then is ``argv``."""
        return ["bash", "-c", f'echo $$ > {self.path}/cgroup.procs; exec "$@"', "in-cgroup", *argv]

    @property
    def used_bytes(self) -> int:
        """The memory that all of its processes use, file pages included."""
        return int((self.path / self._used).read_text())

    def hold(self, size_bytes: int) -> None:
        """Have a process in the cgroup hold so much more memory."""
        if self._eater is None:
            command = self.argv([sys.executable, "-c", EATER])
            self._eater = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._eater.stdin is not None
        assert self._eater.stdout is not None
        self._eater.stdin.write(f"{size_bytes}\n")
        self._eater.stdin.flush()
        assert self._eater.stdout.readline() == "held\n"

    def release(self) -> None:
        """Give back what ``hold`` held."""
        if self._eater is not None:
            self._eater.kill()
            self._eater.communicate()
            self._eater = None
