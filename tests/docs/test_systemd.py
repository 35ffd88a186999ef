"""The unit of docs/how-to/systemd.md: systemd takes it, and what it says works."""

import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Self

from support.pages import ROOT, blocks
from support.ports import free_ports
from support.processes import Child
from support.server import XDS
from support.toolchains import without
from support.waiting import wait_until_blocking

PAGE = "docs/how-to/systemd.md"
PROGRAM = "/opt/xds/bin/xds"


def file_of_the_page(name: str) -> str:
    (text,) = [block.text for block in blocks(PAGE) if block.title == name]
    return text


def unit() -> dict[str, list[str]]:
    """Return what the unit says, by key."""
    found: dict[str, list[str]] = {}
    for line in file_of_the_page("/etc/systemd/system/xds.service").splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_systemd_has_nothing_to_say_against_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        without(FileNotFoundError("there is no systemd-analyze: install Debian's systemd"))
    path = tmp_path / "xds.service"
    text = (
        file_of_the_page("/etc/systemd/system/xds.service").replace(PROGRAM, str(XDS)).replace("User=xds", "User=root")
    )
    path.write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    path.write_text(text.replace("RestartSec=1", "RestrtSec=1"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "RestrtSec" in done.stderr


class Service:
    """The unit's service as systemd would run it, on free ports."""

    def __init__(self, directory: Path, *, more_settings: str = "") -> None:
        listen, self.admin, api = free_ports(3)
        self._heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._unit = unit()
        settings = file_of_the_page("/etc/xds/xds.yaml").replace("127.0.0.1:18000", f"127.0.0.1:{listen}")
        settings = settings.replace("/etc/xds/resources", str(directory / "resources"))
        settings += f"admin: 127.0.0.1:{self.admin}\napi: {{listen: '127.0.0.1:{api}'}}\n{more_settings}"
        (directory / "xds.yaml").write_text(settings)
        shutil.copytree(ROOT / "snapshots" / "quickstart", directory / "resources")
        (start,) = self._unit["ExecStart"]
        self.main = Child(start.replace(PROGRAM, str(XDS)).replace("/etc/xds", str(directory)).split(), name="unit")
        (environment,) = self._unit["Environment"]
        (state,) = self._unit["StateDirectory"]
        self.store = directory / "lib" / state / "store.db"
        name, _, value = environment.partition("=")
        assert value == "/var/lib"
        self.main.env[name] = str(directory / "lib")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.main.stop()
        self._heard.close()

    def start(self) -> str:
        """Start the service, and return what it said first: ``READY=1``, or nothing if it ended."""
        assert self._unit["Type"] == ["notify"]
        self._heard.bind(str(self.store.parents[2] / "notify"))
        self._heard.settimeout(0.1)
        self.main.env["NOTIFY_SOCKET"] = self._heard.getsockname()
        self.main.start()
        return self.said()

    def said(self) -> str:
        """Wait for what the service says to systemd, and return it; nothing if it has ended."""

        def hear() -> str | None:
            try:
                return self._heard.recv(1_000).decode()
            except TimeoutError:
                return "" if self.main.process.poll() is not None else None

        return str(wait_until_blocking(hear, lambda said: said is not None, timeout_s=60))


def test_it_is_started_once_ready_reloads_and_stops(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        assert service.start() == "READY=1"
        assert service.store.exists()
        with urllib.request.urlopen(f"http://127.0.0.1:{service.admin}/readyz") as answer:
            assert answer.read() == b"ready\n"
        (reload,) = unit()["ExecReload"]
        subprocess.run(reload.replace("$MAINPID", str(service.main.pid)).split(), check=True)
        wait_until_blocking(service.main.log, lambda log: "directory read again" in log, timeout_s=20)
        service.main.signal(signal.SIGTERM)  # to all of its processes, as KillMode=control-group has it
        assert service.said() == "STOPPING=1"
        (timeout,) = unit()["TimeoutStopSec"]
        assert service.main.process.wait(int(timeout)) == 0


def test_a_start_with_wrong_settings_fails_and_is_not_tried_again(tmp_path: Path) -> None:
    with Service(tmp_path, more_settings="lisen: here\n") as service:
        began = time.monotonic()
        assert service.start() == ""
        assert time.monotonic() - began < 20, "it does not wait for what is gone"
        assert str(service.main.process.wait(20)) in unit()["RestartPreventExitStatus"]
        assert "lisen: is not a setting" in service.main.log()


def test_the_time_to_stop_is_longer_than_draining_takes() -> None:
    from xds.embed import Settings

    drain = Settings().drain
    assert int(unit()["TimeoutStopSec"][0]) > drain.timeout_s + drain.unready_s


def test_a_socket_of_systemd_that_can_not_be_reached_ends_nothing(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        service.main.env["NOTIFY_SOCKET"] = "@nobody-listens-here"
        service.main.start()
        wait_until_blocking(service.main.log, lambda log: "systemd could not be told" in log, timeout_s=30)
        service.main.signal(signal.SIGTERM)
        assert service.main.process.wait(30) == 0
