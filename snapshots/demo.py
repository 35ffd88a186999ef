"""``make demo``: the control plane, two real Envoys and two tiny upstreams; a changed file changes what Envoy answers.

Everything runs on 127.0.0.1, on the usual ports where they are free, and ends with Ctrl-C (``--once``: by itself).
What is served is a copy of ``snapshots/quickstart``, so that it may be edited while the demo runs.
"""

import argparse
import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).resolve().parent
XDS = Path(sys.executable).with_name("xds")

READY_TIMEOUT_S = 30.0
CHANGE_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 15.0
POLL_S = 0.005
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

GROUPS = """\
# Envoy demo-2 gets the same as all others, but a listener of its own: two Envoys cannot listen on one port.
groups:
  second: {extends: default}
rules:
- group: second
  match: {id: demo-2}
"""


class DemoFailedError(Exception):
    """A part of the demo did not start, or ended. The text says which, with the end of its log."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where everything listens."""

    xds: int
    admin: int
    listeners: tuple[int, int]
    envoy_admins: tuple[int, int]
    services: tuple[int, int]


class Part:
    """One child process in a session of its own: the terminal's Ctrl-C reaches only the demo, which ends its parts."""

    def __init__(self, name: str, argv: Sequence[str], log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        with log_path.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own commands
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def check(self) -> None:
        """Raise DemoFailedError if the process has ended."""
        if self.process.poll() is not None:
            self.fail(f"ended with {self.process.returncode}")

    def fail(self, what: str) -> NoReturn:
        """Raise DemoFailedError with the end of the log."""
        raise DemoFailedError(f"{self.name} {what}\n{self.log_path.read_text(errors='replace')[-3000:]}")

    def stop(self) -> None:
        """End the process, with SIGKILL only if it takes too long."""
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Parts:
    """The demo's child processes, ended in the reverse order of their start."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.running: list[Part] = []

    def start(self, name: str, *argv: str) -> Part:
        """Start one. A signal meanwhile counts only afterwards, when the new part is known and will be ended too."""
        with deferred_signals():
            part = Part(name, argv, self.directory / f"{name.replace(' ', '-')}.log")
            self.running.append(part)
        return part

    def wait(self, part: Part, ready: Callable[[], bool]) -> float:
        """Wait until ``ready`` and return the milliseconds that took."""
        began = time.monotonic()
        while not ready():
            part.check()
            if time.monotonic() - began > READY_TIMEOUT_S:
                part.fail(f"was not ready within {READY_TIMEOUT_S:.0f} s")
            time.sleep(POLL_S)
        return (time.monotonic() - began) * 1000

    def check(self) -> None:
        """Raise DemoFailedError if any has ended."""
        for part in self.running:
            part.check()

    def stop(self) -> None:
        """End all."""
        while self.running:
            self.running.pop().stop()


def get(port: int, path: str) -> tuple[int, str]:
    """Return status and body of one request to 127.0.0.1; status 0 if nothing answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace").strip()
    except (OSError, http.client.HTTPException):
        return 0, "no answer"
    finally:
        connection.close()


def choose_ports() -> Ports:
    """Return the ports of the quickstart, each replaced by any free one where it is taken."""
    with contextlib.ExitStack() as held:
        wanted = (18000, 19000, 10000, 10001, 0, 0, 8081, 8082)
        xds, admin, first, second, *rest = [_free_port(port, held) for port in wanted]
    return Ports(xds, admin, (first, second), (rest[0], rest[1]), (rest[2], rest[3]))


def _free_port(wanted: int, held: contextlib.ExitStack) -> int:
    """Bind the wanted port, or else any, for as long as ``held`` is open, so that none is chosen twice."""
    for port in (wanted, 0):
        probe = held.enter_context(socket.socket())
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise DemoFailedError("there is no free port on 127.0.0.1")


def write(path: Path, text: str) -> None:
    """Write a file in one step, so that nobody reads half of it."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text)
    os.replace(draft, path)


def moved(text: str, ports: Mapping[int, int]) -> str:
    """Return resources with their ports replaced."""
    return re.sub(r"port_value: (\d+)", lambda found: f"port_value: {ports.get(int(found[1]), found[1])}", text)


def make_directory(directory: Path, ports: Ports) -> None:
    """Copy the quickstart, with a group for the second Envoy."""
    services = {8081: ports.services[0], 8082: ports.services[1]}
    (directory / "second").mkdir(parents=True)
    for path in sorted((HERE / "quickstart").glob("*.yaml")):
        write(directory / path.name, moved(path.read_text(), {10000: ports.listeners[0], **services}))
    listener = (HERE / "quickstart/listeners.yaml").read_text()
    write(directory / "second/listeners.yaml", moved(listener, {10000: ports.listeners[1]}))
    write(directory / "groups.yaml", GROUPS)


def start_all(parts: Parts, directory: Path, ports: Ports) -> None:
    """Start upstreams, control plane and Envoys, and wait until each is ready."""
    service_a, service_b = ports.services
    upstreams = parts.start(
        "upstreams", sys.executable, str(HERE / "upstream.py"), f"{service_a}=service-a", f"{service_b}=service-b"
    )
    xds, admin = f"127.0.0.1:{ports.xds}", f"127.0.0.1:{ports.admin}"
    options = ("--listen", xds, "--admin", admin, "--api", "off", "--store", "memory:")
    serving = parts.start("control plane", str(XDS), "serve", str(directory), *options)
    parts.wait(upstreams, lambda: get(service_b, "/")[0] == 200)
    say(f"upstreams      service-a on 127.0.0.1:{service_a}, service-b on 127.0.0.1:{service_b}")
    parts.wait(serving, lambda: get(ports.admin, "/readyz")[0] == 200)
    say(f"control plane  {xds}, serving {directory}; http://{admin}/metrics")
    envoys = []
    for node_id, port in zip(("demo-1", "demo-2"), ports.envoy_admins, strict=True):
        node = ("--node-id", node_id, "--cluster", "demo", "--server", xds, "--admin-port", str(port))
        envoys.append(parts.start(f"envoy {node_id}", str(XDS), "envoy", *node))
    for part, port, listener in zip(envoys, ports.envoy_admins, ports.listeners, strict=True):
        parts.wait(part, lambda port=port: get(port, "/ready") == (200, "LIVE"))
        parts.wait(part, lambda listener=listener: get(listener, "/a")[0] == 200)
        say(f"{part.name}   LIVE: http://127.0.0.1:{listener}, admin http://127.0.0.1:{port}")


def show_answers(ports: Ports) -> None:
    """Ask both Envoys, and print the curl lines with their answers."""
    for listener in ports.listeners:
        for path in ("/a", "/b"):
            status, body = get(listener, path)
            say(f"$ curl http://127.0.0.1:{listener}{path}\n{body}" + ("" if status == 200 else f"  (status {status})"))


def show_change(parts: Parts, directory: Path, ports: Ports) -> None:
    """Move service-a to the other upstream by its endpoints file, and print how soon each Envoy answers from there."""
    path = directory / "endpoints.yaml"
    say(f"\nNow {path.name} changes: service-a moves from port {ports.services[0]} to {ports.services[1]}.")
    write(path, moved(path.read_text(), {ports.services[0]: ports.services[1]}))
    saved = time.monotonic()
    for listener in ports.listeners:
        while get(listener, "/a") != (200, "service-b"):
            parts.check()
            if time.monotonic() - saved > CHANGE_TIMEOUT_S:
                raise DemoFailedError(f"Envoy on port {listener} did not follow within {CHANGE_TIMEOUT_S:.0f} s")
            time.sleep(POLL_S)
        took_ms = (time.monotonic() - saved) * 1000
        say(f"$ curl http://127.0.0.1:{listener}/a\nservice-b   # {took_ms:.0f} ms after the file was saved")


def stay(parts: Parts, directory: Path) -> None:
    """Keep everything running until a signal."""
    say(f"\nYour turn: edit the files in {directory} and curl again. Ctrl-C ends the demo.")
    while True:
        parts.check()
        time.sleep(0.2)  # only to notice a part that ended; signals interrupt it


def say(text: str) -> None:
    """Print at once, whatever stdout is."""
    print(text, flush=True)


@contextlib.contextmanager
def running_parts(directory: Path) -> Iterator[Parts]:
    """Yield the parts, and end them all whatever happens; from then on signals no longer interrupt."""
    parts = Parts(directory)
    try:
        yield parts
    finally:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        parts.stop()


def run(*, once: bool) -> None:
    """Run the demo. Raises DemoFailedError, or KeyboardInterrupt at a signal."""
    home = Path(tempfile.mkdtemp(prefix="xds-demo-"))
    try:
        with running_parts(home) as parts:
            ports = choose_ports()
            directory = home / "resources"
            make_directory(directory, ports)
            start_all(parts, directory, ports)
            say("")
            show_answers(ports)
            show_change(parts, directory, ports)
            if not once:
                stay(parts, directory)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


@contextlib.contextmanager
def deferred_signals() -> Iterator[None]:
    """Hold the signals that end the demo back until the block is done."""
    noted: list[int] = []
    before = {number: signal.signal(number, lambda which, _: noted.append(which)) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if noted:
        raise KeyboardInterrupt


def main() -> int:
    """Run the demo and return its exit code: 0 also after Ctrl-C, 1 if a part failed."""
    parser = argparse.ArgumentParser(description="A control plane, two Envoys and two upstreams on this machine.")
    parser.add_argument("--once", action="store_true", help="end by itself after the change was shown")
    once = parser.parse_args().once
    for number in STOP_SIGNALS:
        signal.signal(number, _interrupt)
    try:
        run(once=once)
    except DemoFailedError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("")
    say("all parts have ended")
    return 0


if __name__ == "__main__":
    sys.exit(main())
