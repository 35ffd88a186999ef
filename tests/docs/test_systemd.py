"""The unit of docs/how-to/systemd.md: systemd takes it, and what it says works."""

import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

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

    def start(self) -> int:
        """Run what is run after the start, and return how it ended."""
        self.main.start()
        (after,) = self._unit["ExecStartPost"]
        script = re.fullmatch(r"/bin/sh -c '(.*)'", after)
        assert script is not None
        command = script[1].replace("127.0.0.1:19000", f"127.0.0.1:{self.admin}")
        env = self.main.env | {"MAINPID": str(self.main.pid)}
        with subprocess.Popen(["/bin/sh", "-c", command], env=env) as waiting:

            def has_ended() -> bool:
                self.main.process.poll()  # so that its id goes with it
                return waiting.poll() is not None

            try:
                wait_until_blocking(has_ended, timeout_s=60)
            finally:
                waiting.kill()
        return waiting.returncode


def test_it_is_started_once_ready_reloads_and_stops(tmp_path: Path) -> None:
    service = Service(tmp_path)
    assert service.start() == 0
    try:
        assert service.store.exists()
        (reload,) = unit()["ExecReload"]
        subprocess.run(reload.replace("$MAINPID", str(service.main.pid)).split(), check=True)
        wait_until_blocking(service.main.log, lambda log: "directory read again" in log, timeout_s=20)
        service.main.signal(signal.SIGTERM)  # to all of its processes, as KillMode=control-group has it
        (timeout,) = unit()["TimeoutStopSec"]
        assert service.main.process.wait(int(timeout)) == 0
    finally:
        service.main.stop()


def test_a_start_with_wrong_settings_fails_and_is_not_tried_again(tmp_path: Path) -> None:
    service = Service(tmp_path, more_settings="lisen: here\n")
    began = time.monotonic()
    assert service.start() == 1
    assert time.monotonic() - began < 20, "it does not wait for what is gone"
    assert str(service.main.process.wait(20)) in unit()["RestartPreventExitStatus"]
    assert "lisen: is not a setting" in service.main.log()


def test_the_time_to_stop_is_longer_than_draining_takes() -> None:
    from xds.embed import Settings

    drain = Settings().drain
    assert int(unit()["TimeoutStopSec"][0]) > drain.timeout_s + drain.unready_s
