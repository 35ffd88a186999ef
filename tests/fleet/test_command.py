"""The command, as a process of its own."""

import asyncio
import json
import sys
from pathlib import Path

import pytest
from fleet.served import forgetful, ours

FLEET = (str(Path(sys.executable).parent / "xds"), "fleet")


async def fleet(*arguments: str | Path) -> tuple[int, str, str]:
    """Run the command until it ends; return its exit code, stdout and stderr."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*FLEET, *map(str, arguments), stdout=pipe, stderr=pipe)
    out, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), errors.decode()


async def test_a_run_prints_tables_and_writes_a_result_that_can_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra xds-control-plane[plot] is not installed")
    path = tmp_path / "result.json"
    async with ours() as served:
        server = ["--server", str(served.address), "--trigger", served.trigger]
        code, out, errors = await fleet(*server, "--streams", "5,10", "--pushes", "2", "--json", path)
    assert (code, "Traceback" in errors) == (0, False)
    assert "xds fleet: connecting 10\n" in errors
    assert "push to received" in out
    assert "verified: 10 of 10 sidecars equal" in out
    result = json.loads(path.read_text())
    assert (result["ok"], result["format"], [step["streams"] for step in result["steps"]]) == (True, 1, [5, 10])
    assert result["options"]["server"] == str(served.address)
    assert {"cpu", "cores", "memory_bytes", "system"} <= result["machine"].keys()
    assert {"python", "uvloop", "xds-control-plane"} <= result["tool"].keys()
    code, _, errors = await fleet("plot", path, "--output", tmp_path / "x.svg")
    assert (code, errors, (tmp_path / "x.svg").exists()) == (0, "", True)


async def test_a_result_that_can_not_be_written_is_refused_before_the_run(tmp_path: Path) -> None:
    async with ours() as served:
        for path, why in ((tmp_path / "none" / "result.json", "No such file"), (tmp_path, "Is a directory")):
            code, out, errors = await fleet("--server", str(served.address), "--streams", "3", "--json", path)
            assert (code, out, why in errors, "--json" in errors) == (2, "", True, True), errors


async def test_json_on_stdout_is_json_alone() -> None:
    async with ours() as served:
        code, out, errors = await fleet("--server", str(served.address), "--streams", "3", "--json", "-")
    assert code == 0
    assert json.loads(out)["resources"] == {"clusters": 3, "endpoints": 3, "listeners": 1, "routes": 1}
    assert "connect to synced" in errors


async def test_what_is_wrong_is_exit_code_1_and_said() -> None:
    async with forgetful(forgets=("fleet-0000001",)) as served:
        code, _, errors = await fleet(
            *("--server", str(served.address), "--types", "clusters,endpoints", "--streams", "3"),
            *("--pushes", "1", "--trigger", served.trigger, "--timeout", "1s"),
        )
    assert code == 1
    assert "xds: 1 of 3 sidecars differ from a fresh observer; fleet-0000001: endpoints: 1 differ" in errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--streams", "ten"], "'ten' is not numbers"),
        (["--streams", "2,1"], "must grow"),
        (["--stuck", "lots"], "'lots' is not a share, as 10%"),
        (["--stuck", "60%", "--slow", "60%"], "also together"),
        (["--reconnect", "often"], "'often' is not a rate"),
        (["--subscribe", "routes"], "'routes' is not TYPE=NAME"),
        (["--pushes", "1"], "a push needs something"),
        (["--timeout", "soon"], "'soon' is not a time"),
        (["--server", "nowhere"], "has no port"),
        (["--tls-cert", "x"], "needs --tls-ca"),
        (["--streams", "9000000000", "--workers", "1"], "ulimit -n"),
    ],
)
async def test_wrong_options_are_exit_code_2_and_said(arguments: list[str], said: str) -> None:
    code, out, errors = await fleet(*arguments)
    assert (code, out, "Traceback" in errors) == (2, "", False)
    assert said in " ".join(errors.replace("│", " ").split())


async def test_help_shows_examples_and_exit_codes() -> None:
    for arguments in (["--help"], ["plot", "-h"]):
        code, out, _ = await fleet(*arguments)
        assert (code, "Exit codes:" in out, "Examples" in out) == (0, True, True)
