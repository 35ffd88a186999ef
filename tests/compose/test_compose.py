"""docker-compose.yml without a container engine: checked by the specification's own loader, and run as processes.

Each service gets a loopback address of its own, so that ports stay what they are; names of services in commands and
files become these addresses. The programs are those of this machine.
"""

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.envoy import envoy_binary
from support.etcd import etcd_binary
from support.fetch import fetch
from support.processes import Child
from support.server import XDS
from support.toolchains import without
from support.traffic import Traffic

from xds.client import Client

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
CHECKER = Path(__file__).parent / "checker"
ENDS = "seed"
"""The service that ends by itself."""
SIDECARS = {"sidecar-1": 10001, "sidecar-2": 10002}
RATE = 300.0

pytestmark = pytest.mark.envoy


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the compose file means, by compose-go, which refuses what is not in the specification."""
    if shutil.which("go") is None:
        without(FileNotFoundError("there is no Go, which the loader of compose files is written in"))
    binary = tmp_path_factory.mktemp("compose") / "checker"
    subprocess.run(["go", "build", "-o", binary, "."], cwd=CHECKER, check=True, timeout=240)
    done = subprocess.run([binary, FILE], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    parsed: dict[str, Any] = json.loads(done.stdout)
    return parsed


def prometheus_binary() -> str:
    """Return Prometheus' path. Without one the test is skipped; where ``CI`` is set, that is a failure."""
    found = shutil.which("prometheus")
    if found is None:
        without(FileNotFoundError("there is no Prometheus: install Debian's prometheus"))
    return str(found)


class Local:
    """The project's services as processes of this machine."""

    def __init__(self, project: dict[str, Any], directory: Path) -> None:
        self._services: dict[str, dict[str, Any]] = project["services"]
        self._directory = directory
        self.addresses = {name: f"127.0.20.{10 + number}" for number, name in enumerate(sorted(self._services))}
        self.children = {name: self._child(name) for name in self._services}

    def _resolved(self, text: str) -> str:
        for name, address in self.addresses.items():
            text = re.sub(rf"(?<![\w-]){name}(?=:\d)", address, text)
            text = re.sub(rf"(address: ){name}(?![\w-])", rf"\g<1>{address}", text)
        return text

    def _own(self, name: str, text: str) -> str:
        return re.sub(r"\b(0\.0\.0\.0|127\.0\.0\.1)\b", self.addresses[name], self._resolved(text))

    def _child(self, name: str) -> Child:
        service = self._services[name]
        places = {volume["target"]: self._volume(name, volume) for volume in service.get("volumes", ())}

        def local(text: str) -> str:
            text = self._own(name, text)
            for target, path in places.items():
                text = re.sub(rf"(^|(?<==)){re.escape(target)}", str(path), text)
            return text

        command = [local(argument) for argument in service["command"]]
        child = Child([*self._program(service), *self._arguments(service, command)], name=name)
        child.env.update({key: local(value) for key, value in service.get("environment", {}).items()})
        return child

    def _program(self, service: dict[str, Any]) -> list[str]:
        match service["image"].partition(":")[0]:
            case "xds-control-plane":
                return [str(XDS)]
            case "quay.io/coreos/etcd":
                return [etcd_binary()]
            case "envoyproxy/envoy":
                return [str(envoy_binary()), "--disable-hot-restart"]
            case "prom/prometheus":
                return [prometheus_binary()]
            case "python":
                return [sys.executable]
        raise AssertionError(f"no program for {service['image']}")

    def _arguments(self, service: dict[str, Any], command: list[str]) -> list[str]:
        is_whole = service["image"].startswith(("xds-control-plane", "prom/"))  # the image says which program it is
        return command if is_whole else command[1:]

    def _volume(self, name: str, volume: dict[str, Any]) -> Path:
        place = self._directory / name / volume["target"].strip("/").replace("/", "_")
        if volume["type"] == "volume":
            place.mkdir(parents=True, exist_ok=True)
            place.chmod(0o700)
            return place
        source = Path(volume["source"])
        assert source.exists(), source
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place)
            files = [path for path in place.rglob("*") if path.is_file()]
            change = self._resolved  # what sidecars are to listen on is theirs
        else:
            shutil.copy(source, place)
            files, change = [place], lambda text: self._own(name, text)
        for file in files:
            if file.suffix != ".py":
                file.write_text(change(file.read_text()))
        return place

    async def start(self) -> None:
        """Start what keeps running, then run ``seed`` until it succeeds, as its restart policy has it."""
        for name, child in self.children.items():
            if name != ENDS:
                child.start()
        seed = self.children[ENDS]
        async with asyncio.timeout(30):
            while await seed.start().wait_ended(20) != 0:
                await asyncio.sleep(0.5)

    async def wait_ready(self, name: str) -> None:
        async with asyncio.timeout(30):
            while True:
                try:
                    if (await fetch(19000, "/readyz", host=self.addresses[name])).status == 200:
                        return
                except OSError:
                    pass
                await asyncio.sleep(0.05)


@asynccontextmanager
async def running(project: dict[str, Any], directory: Path) -> AsyncIterator[Local]:
    local = Local(project, directory)
    try:
        await local.start()
        yield local
    finally:
        for child in reversed(local.children.values()):
            await asyncio.to_thread(child.kill)


async def wait_answer(port: int, path: str, wanted: str) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                if (await fetch(port, path)).text.strip() == wanted:
                    return
            except (OSError, TimeoutError):
                pass
            await asyncio.sleep(0.05)


def routes_to(cluster: str) -> dict[str, Any]:
    """Return the routes with all that is not for /a going elsewhere."""
    (text,) = (ROOT / "snapshots/compose/resources").glob("routes.yaml")
    (route,) = yaml.safe_load(text.read_text())["resources"]
    route["virtual_hosts"][0]["routes"][1]["route"]["cluster"] = cluster
    return dict(route)


@pytest.mark.timeout(400)
async def test_traffic_flows_while_a_replica_and_then_etcd_are_killed_and_come_back(project, tmp_path: Path) -> None:
    async with running(project, tmp_path) as local, AsyncExitStack() as stack:
        for port in SIDECARS.values():
            await wait_answer(port, "/a", "service-a")
            await wait_answer(port, "/", "service-b")
        loads = [await stack.enter_async_context(Traffic(port, rate=RATE)) for port in SIDECARS.values()]
        one, two = local.children["xds-1"], local.children["xds-2"]

        one.kill()
        async with Client(f"{local.addresses['xds-2']}:18001") as client:
            await client.apply(upsert=[routes_to("service-a")])
        for port in SIDECARS.values():
            await wait_answer(port, "/", "service-a")
        one.start()
        await local.wait_ready("xds-1")

        local.children["etcd"].kill()
        await asyncio.sleep(2)
        for name in ("xds-1", "xds-2"):
            await local.wait_ready(name)
        two.kill()  # and started with etcd away: from its cache
        two.start()
        await local.wait_ready("xds-2")
        local.children["etcd"].start()
        async with Client(f"{local.addresses['xds-1']}:18001", patience_s=30) as client:
            await client.apply(upsert=[routes_to("service-b")])
        for port in SIDECARS.values():
            await wait_answer(port, "/", "service-b")

        for load in loads:
            report = await load.stop()
            print(report)
            assert report.failed == {}, report.samples
        await scraped(local)


async def scraped(local: Local) -> None:
    """Wait until Prometheus has the figures of both replicas."""
    async with asyncio.timeout(30):
        while True:
            said = await fetch(9090, "/api/v1/query?query=xds_streams", host=local.addresses["prometheus"])
            found = {
                each["metric"]["instance"]: float(each["value"][1]) for each in json.loads(said.text)["data"]["result"]
            }
            if len(found) == 2 and sum(found.values()) >= len(SIDECARS):
                return
            await asyncio.sleep(0.5)


@pytest.mark.timeout(400)
def test_both_replicas_are_alike_and_nothing_is_published_beyond_loopback(project) -> None:
    services = project["services"]
    assert services["xds-1"]["command"] == services["xds-2"]["command"]
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert published
    assert all(port["host_ip"] == "127.0.0.1" for port in published)
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^USER xds$", text, re.MULTILINE)
    assert text.count("\nFROM ") == 2, "built in one stage, run in another"
