"""docker-compose.yml without a container engine: checked by the specification's own loader, and run as processes.

Each service gets a loopback address of its own, so that ports stay what they are; names of services in commands and
files become these addresses. The programs are those of this machine. One that ends is started again as its restart
policy says.
"""

import asyncio
import json
import math
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import yaml
from support.envoy import envoy_binary
from support.etcd import etcd_binary
from support.fetch import fetch
from support.processes import Child
from support.server import XDS
from support.toolchains import without
from support.traffic import Traffic
from support.waiting import NotMetError, for_a_while, wait_until

from xds.client import Client

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
CHECKER = Path(__file__).parent / "checker"
SEED = "seed"
"""The service that ends by itself, with failure until ``xds-1`` serves."""
RESTART_MIN_S, RESTART_MAX_S = 0.1, 60.0
RUNS_S = 10.0
"""How long a service runs until its next restart comes as soon as its first (Docker's restart policies)."""
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
    """The project's services as processes of this machine, between ``async with`` and its end.

    ``ended`` tells of each service that ended by itself and was not to: why, by its last line.
    """

    def __init__(self, project: dict[str, Any], directory: Path) -> None:
        self._services: dict[str, dict[str, Any]] = project["services"]
        self._directory = directory
        self.addresses = {name: f"127.0.20.{10 + number}" for number, name in enumerate(sorted(self._services))}
        self.children = {name: self._child(name) for name in self._services}
        self.ended: list[str] = []
        self._keeping: dict[str, asyncio.Task[None]] = {}

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

    def start(self, name: str) -> None:
        """Start a service, and start it again when it ends, until it is killed."""
        policy = self._services[name]["restart"]
        assert policy in ("on-failure", "unless-stopped"), f"{name}: restart: {policy}"
        self.children[name].start()
        self._keeping[name] = asyncio.create_task(self._keep(name, ends=policy == "on-failure"))

    async def kill(self, name: str) -> None:
        """Kill a service, which stays down then."""
        keeping = self._keeping.pop(name, None)
        if keeping is not None:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
        await asyncio.to_thread(self.children[name].kill)

    async def _keep(self, name: str, *, ends: bool) -> None:
        child = self.children[name]
        pause_s = RESTART_MIN_S
        while True:
            await wait_until(lambda: not child.running, timeout_s=math.inf, poll_s=0.05)
            if not ends:
                self.ended.append(self._state(name))
            elif child.process.returncode == 0:
                return
            if time.monotonic() - child.started_at > RUNS_S:
                pause_s = RESTART_MIN_S
            await for_a_while(pause_s, "as compose does before it starts a service again")
            pause_s = min(2 * pause_s, RESTART_MAX_S)
            child.start()

    def _state(self, name: str) -> str:
        child = self.children[name]
        if child.process is None:
            return f"{name} was not started"
        if child.running:
            return f"{name} runs"
        said = child.log().strip().splitlines()
        return f"{name} ended with {child.process.returncode}: {said[-1] if said else 'no word'}"

    async def wait(
        self, what: str, look: Callable[[], Any], is_met_by: Callable[[Any], object] = bool, *, timeout_s: float = 30
    ) -> None:
        """Wait as ``wait_until`` does; if it is in vain, say which services are down, and why."""
        try:
            await wait_until(look, is_met_by, timeout_s=timeout_s, poll_s=0.05, ignoring=OSError)
        except NotMetError as missed:
            states = [*map(self._state, self.children), "", "ended before:", *(self.ended or ["none"])]
            pytest.fail("\n".join([f"{what}: {missed}", *states]))

    async def wait_seeded(self) -> None:
        await self.wait("the first resources are applied", self._keeping[SEED].done)
        self._keeping[SEED].result()

    async def wait_ready(self, name: str) -> None:
        await self.wait(
            f"{name} is ready",
            lambda: fetch(19000, "/readyz", host=self.addresses[name]),
            lambda answer: answer.status == 200,
        )

    async def wait_stale(self, name: str) -> None:
        await self.wait(
            f"{name} notices that etcd is away",
            lambda: fetch(19000, "/metrics", host=self.addresses[name]),
            lambda answer: "\nxds_stale 1.0\n" in answer.text,
        )

    async def wait_answer(self, port: int, path: str, wanted: str) -> None:
        await self.wait(
            f"{path} on port {port} is answered by {wanted}",
            lambda: fetch(port, path),
            lambda answer: answer.text.strip() == wanted,
        )

    async def wait_scraped(self) -> None:
        """Wait until Prometheus has the figures of both replicas."""

        async def streams() -> dict[str, float]:
            said = await fetch(9090, "/api/v1/query?query=xds_streams", host=self.addresses["prometheus"])
            results = json.loads(said.text)["data"]["result"]
            return {each["metric"]["instance"]: float(each["value"][1]) for each in results}

        await self.wait(
            "Prometheus has the figures of both replicas",
            streams,
            lambda found: len(found) == 2 and sum(found.values()) >= len(SIDECARS),
        )

    async def __aenter__(self) -> Self:
        for name in self._services:
            self.start(name)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self._keeping):
            await self.kill(name)


def routes_to(cluster: str) -> dict[str, Any]:
    """Return the routes with all that is not for /a going elsewhere."""
    (text,) = (ROOT / "snapshots/compose/resources").glob("routes.yaml")
    (route,) = yaml.safe_load(text.read_text())["resources"]
    route["virtual_hosts"][0]["routes"][1]["route"]["cluster"] = cluster
    return dict(route)


@pytest.mark.timeout(400)
async def test_traffic_flows_while_a_replica_and_then_etcd_are_killed_and_come_back(project, tmp_path: Path) -> None:
    async with Local(project, tmp_path) as local, AsyncExitStack() as stack:
        await local.wait_seeded()
        for port in SIDECARS.values():
            await local.wait_answer(port, "/a", "service-a")
            await local.wait_answer(port, "/", "service-b")
        loads = [await stack.enter_async_context(Traffic(port, rate=RATE)) for port in SIDECARS.values()]

        await local.kill("xds-1")
        async with Client(f"{local.addresses['xds-2']}:18001") as client:
            await client.apply(upsert=[routes_to("service-a")])
        for port in SIDECARS.values():
            await local.wait_answer(port, "/", "service-a")
        local.start("xds-1")
        await local.wait_ready("xds-1")

        await local.kill("etcd")
        for name in ("xds-1", "xds-2"):
            await local.wait_stale(name)
            await local.wait_ready(name)
        await local.kill("xds-2")  # and started with etcd away: from its cache
        local.start("xds-2")
        await local.wait_ready("xds-2")
        local.start("etcd")
        async with Client(f"{local.addresses['xds-1']}:18001", patience_s=30) as client:
            await client.apply(upsert=[routes_to("service-b")])
        for port in SIDECARS.values():
            await local.wait_answer(port, "/", "service-b")

        for load in loads:
            report = await load.stop()
            print(report)
            assert report.failed == {}, report.samples
        await local.wait_scraped()
        assert local.ended == []


FAILS_ONCE = """
import pathlib, signal, sys
before = pathlib.Path(sys.argv[1])
if not before.exists():
    before.touch()
    sys.exit("too early")
print("in time", flush=True)
if sys.argv[2] == "goes on":
    signal.pause()
"""


@pytest.mark.timeout(400)
async def test_what_ends_is_started_again_and_a_failure_names_what_is_down(project, tmp_path: Path) -> None:
    """Of the stand-in for compose: what a service's early end costs here must be what it costs there."""
    local = Local(project, tmp_path)
    for name, then in (("etcd", "goes on"), (SEED, "ends")):
        local.children[name].argv = [sys.executable, "-c", FAILS_ONCE, str(tmp_path / f"{name}-was"), then]
        local.start(name)
    try:
        await local.wait_seeded()
        await local.wait("etcd is started again", lambda: "in time" in local.children["etcd"].log())
        assert local.ended == ["etcd ended with 1: too early"]
        await local.kill("etcd")
        with pytest.raises(pytest.fail.Exception) as failure:
            await local.wait("all is well", lambda: "not yet", lambda seen: seen == "well", timeout_s=0.1)
    finally:
        for name in ("etcd", SEED):
            await local.kill(name)
    first, *states = str(failure.value).splitlines()
    assert first == "all is well: not as wanted within 0.1 s; last seen: 'not yet'"
    assert "etcd ended with -9: in time" in states
    assert "xds-1 was not started" in states
    assert states[-1] == "etcd ended with 1: too early"


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
