"""A control plane on the native transport in a process of its own, so that its memory and CPU can be measured.

Its methods block: tests of frames have nothing else to do meanwhile.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from support import resources as r
from support.native_h2 import H2Client
from support.native_peer import HEALTH_CHECK, message
from support.processes import Child, ChildFailedError
from support.waiting import wait_until_blocking

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
MIB = 1024 * 1024
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class NativeServer(Child):
    """A serving process: ``with NativeServer(resources=[…]) as server: Peer(server.port)``.

    ``settings`` are the product's; ``options`` and ``limits`` replace fields of the transport's own.
    """

    def __init__(
        self,
        *,
        resources: Sequence[Mapping[str, Any]] = (),
        settings: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        limits: Mapping[str, Any] | None = None,
    ) -> None:
        script = Path(__file__).with_name("native_process.py")
        super().__init__([sys.executable, "-P", str(script)], name="native-server")
        self.env = {key: value for key, value in os.environ.items() if not key.startswith(("XDS_", "COVERAGE_"))}
        self._setup = {
            "resources": list(resources),
            "settings": dict(settings or {}),
            "options": dict(options or {}),
            "limits": dict(limits or {}),
        }
        self._said = b""
        self.port = 0
        self.sockets_idle = 0

    def start(self) -> Self:
        """Start the process and wait until it serves."""
        self._spawn(stdout=subprocess.PIPE)
        self.port = self.ask("serve", **self._setup)["port"]
        self.sockets_idle = self.sockets()
        return self

    def ask(self, command: str, *, timeout_s: float = 20.0, **fields: Any) -> Any:
        """Send a command and return the answer. Raises ChildFailedError if there is none."""
        self.tell(command, **fields)
        process = self.process
        assert process is not None
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._said:
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
            if not data:
                raise ChildFailedError(self, f"did not answer {command!r} within {timeout_s} s")
            self._said += data
        line, _, self._said = self._said.partition(b"\n")
        return json.loads(line)

    def tell(self, command: str, **fields: Any) -> None:
        """Send a command without waiting for its answer."""
        process = self.process
        assert process is not None
        process.stdin.write(json.dumps({"command": command, **fields}).encode() + b"\n")
        process.stdin.flush()

    def apply(self, *upsert: Mapping[str, Any], remove: Sequence[tuple[str, str]] = ()) -> None:
        """Change the resources served."""
        self.ask("apply", upsert=upsert, remove=remove)

    def state(self) -> dict[str, Any]:
        """Return the number of open streams, the hub's counters, and the faults reported so far."""
        return self.ask("state")

    def wait_streams(self, count: int, timeout_s: float = 10.0) -> None:
        """Wait until ``count`` xDS streams are open."""
        wait_until_blocking(lambda: self.state()["streams"], equals=count, timeout_s=timeout_s)

    def memory_bytes(self) -> int:
        """Return the resident memory of the process."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE_BYTES

    def cpu_s(self) -> float:
        """Return the CPU time that the process has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    def sockets(self) -> int:
        """Return the number of open sockets of the process."""
        found = 0
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                found += os.readlink(entry).startswith("socket:")
            except FileNotFoundError:
                continue  # closed meanwhile
        return found

    def wait_sockets(self, count: int, timeout_s: float = 10.0) -> None:
        """Wait until ``count`` sockets are open."""
        wait_until_blocking(self.sockets, equals=count, timeout_s=timeout_s)


def secret(name: str, size: int, letter: str = "s") -> r.Json:
    """Return a secret of about this size."""
    return {"@type": r.SECRET, "name": name, "generic_secret": {"secret": {"inline_string": letter * size}}}


def serves(server: NativeServer) -> bool:
    """Return whether a new client is answered soon."""
    with H2Client(server.port, timeout_s=3.0) as client:
        stream = client.open(message(b""), path=HEALTH_CHECK, end=True)
        client.wait(lambda: client.answers[stream].ended)
        return client.answers[stream].status == 0


def check_sound(server: NativeServer) -> None:
    """Assert that a server has recovered: no streams, no faults, and a new client is served."""
    assert serves(server)
    server.wait_streams(0)
    assert server.state()["faults"] == []
