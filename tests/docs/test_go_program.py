"""The Go program of docs/how-to/from-go-control-plane.md pushes a snapshot, and says what is wrong with one."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.pages import ROOT, blocks
from support.server import XdsServer
from support.toolchains import without

PEER = ROOT / "bench" / "peers" / "go-control-plane"
"""Its go.mod has go-control-plane in the version that is measured."""

BUILD_S = 600
"""Envoy's API in Go is large: on two busy cores it takes minutes, if nothing of it was built before."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("go") is None:
        without(FileNotFoundError("there is no Go, which the program of the page is written in"))
    directory = tmp_path_factory.mktemp("go")
    (source,) = [block.text for block in blocks("docs/how-to/from-go-control-plane.md") if block.language == "go"]
    (directory / "main.go").write_text(source)
    for name in ("go.mod", "go.sum"):
        shutil.copy(PEER / name, directory)
    unformatted = subprocess.run(["gofmt", "-l", "."], cwd=directory, capture_output=True, text=True, check=True)
    assert unformatted.stdout == ""
    subprocess.run(["go", "build", "-o", "push", "."], cwd=directory, check=True, timeout=BUILD_S)
    return directory / "push"


def run(program: Path, server: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, server], capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ)
    )


@pytest.mark.timeout(BUILD_S + 60)
async def test_the_go_program_pushes_its_snapshot_into_the_group(program: Path) -> None:
    async with XdsServer(None) as server:
        await server.wait_ready()
        done = await asyncio.to_thread(run, program, f"http://127.0.0.1:{server.admin_port}")
        assert (done.returncode, done.stderr) == (0, "")
        assert '"revision":1' in done.stdout
        told = (await server.admin("/v1/groups/web/resources/clusters/web")).json()
    assert (told["name"], told["connect_timeout"]) == ("web", "1s")


@pytest.mark.timeout(BUILD_S + 60)
def test_the_go_program_fails_where_it_is_refused(program: Path) -> None:
    done = run(program, "http://127.0.0.1:1")
    assert (done.returncode, "connection refused" in done.stderr) == (1, True)
