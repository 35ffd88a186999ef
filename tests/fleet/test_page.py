"""Every command in docs/fleet.md runs as printed there, all in one shell, one block after the other."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.compare.servers import free_ports

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "fleet.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
TIMEOUT_S = 110

pytestmark = pytest.mark.slow


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(PAGE.read_text()) if found == language]


def test_every_command_of_the_page_runs(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "snapshots" / "quickstart", tmp_path / "snapshots" / "quickstart")
    pytest.importorskip("matplotlib", reason="the extra xds-control-plane[plot] is not installed")
    port, admin_port = free_ports(2)
    script = "\n".join(["set -eu", "trap 'kill $server; wait $server' EXIT", *blocks("sh")])
    script = script.replace("127.0.0.1:18000", f"127.0.0.1:{port}").replace(
        "127.0.0.1:19000", f"127.0.0.1:{admin_port}"
    )
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "XDS_LISTEN": f"127.0.0.1:{port}",
            "XDS_ADMIN": f"127.0.0.1:{admin_port}",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.count("verified: ") == script.count("xds fleet --server")
    assert (tmp_path / "size.svg").exists()


def test_what_a_run_prints_has_the_columns_that_the_page_shows() -> None:
    from xds.fleet.report import tables
    from xds.fleet.results import Connected, MemoryFigures, Result, RunStep

    step = RunStep(1, Connected(1, 1, None, 0.1, 1.0, 1.0), MemoryFigures(1, 1, 1.0), ())
    (shown,) = blocks("text")
    lines = shown.splitlines()
    for table in tables(Result("now", {}, {}, {}, steps=[step])):
        assert re.split(r"  +", lines[lines.index(table.title) + 1]) == list(table.columns)


def test_every_fenced_block_is_run_or_shown() -> None:
    assert PAGE.read_text().count("```") == 2 * (len(blocks("sh")) + len(blocks("text")))
