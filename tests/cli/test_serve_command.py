import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import xds
from xds.address import Address, BindError
from xds.cli.main import command_line
from xds.cli.serve import print_serving
from xds.config import ServingInfo, Settings
from xds.model.problem import ChangesetRejectedError, Problem

INFO = ServingInfo(
    listen=Address("0.0.0.0", 18000),
    admin=Address("127.0.0.1", 19000),
    api=Address("127.0.0.1", 18001),
    tls="mutual",
    directory=Path("snapshots/quickstart"),
    resources={"default": {}, "web": {"endpoints": 2, "clusters": 1}},
)


def shown(info: ServingInfo) -> str:
    stream = io.StringIO()
    print_serving(stream, info)
    return stream.getvalue()


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch, _logs_as_before: None) -> SimpleNamespace:
    """Replace ``xds.server`` with a stub that records its settings, announces, and ends as configured."""
    stub = SimpleNamespace(settings=None, code=0, error=None)

    async def serve(settings: Settings, *, announce: Any = None, progress: Any = None) -> int:
        stub.settings = settings
        if stub.error is not None:
            raise stub.error
        announce(INFO)
        return stub.code

    stub.serve = serve
    monkeypatch.setitem(sys.modules, "xds.server", stub)  # type: ignore[arg-type]
    monkeypatch.setattr(xds, "server", stub, raising=False)
    return stub


def test_a_wrong_setting_is_one_line_and_exit_2(xds, tmp_path: Path) -> None:
    done = xds("serve", tmp_path, "--listen", "nowhere", "--set", "protocol.hold_timout_s=3", XDS_LOG__LEVEL="loud")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "xds: --listen: 'nowhere' has no port; write HOST:PORT, [IPv6]:PORT or unix:/PATH",
        "xds: XDS_LOG__LEVEL: should be 'debug', 'info', 'warning' or 'error', not 'loud'",
        "xds: --set protocol.hold_timout_s: is not a setting; did you mean protocol.hold_timeout_s?",
    ]


def test_a_directory_has_to_be_there(xds) -> None:
    done = xds("serve", "none", "--listen", "127.0.0.1:0", "--admin", "off", "--api", "off", "--store", "memory:")
    assert (done.returncode, done.stderr.splitlines()) == (
        1,
        [
            "none: the directory does not exist",
            "    create it, or name another directory",
            "xds: none can't be served: 1 problem, above",
        ],
    )
    done = xds("serve", "--set", "listen")
    assert done.returncode == 2
    assert "is not KEY=VALUE" in done.stderr


def test_options_become_settings(serving: SimpleNamespace, tmp_path: Path) -> None:
    options = ["--listen", "127.0.0.1:0", "--admin", "off", "--drain-timeout", "0", "--reflection", "--insecure-xds"]
    more = ["--log-format", "json", "--log-level", "error", "--set", "protocol.ordering=false", "--set", "admin=x:1"]
    result = CliRunner().invoke(command_line(), ["serve", str(tmp_path), *options, *more])
    assert result.exit_code == 0, result.output
    assert serving.settings == Settings.model_validate(
        {
            "directory": tmp_path,
            "listen": "127.0.0.1:0",
            "admin": "off",
            "drain": {"timeout_s": 0},
            "reflection": True,
            "insecure_xds": True,
            "log": {"format": "json", "level": "error"},
            "protocol": {"ordering": False},
        }
    )


def test_json_logs_say_what_is_served_in_one_line(serving: SimpleNamespace, tmp_path: Path) -> None:
    result = CliRunner().invoke(command_line(), ["serve", str(tmp_path), "--log-format", "json"])
    assert result.stdout == ""
    line = json.loads(result.stderr)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "serving",
        "level": "info",
        "logger": "xds.serve",
        "listen": "0.0.0.0:18000",
        "admin": "127.0.0.1:19000",
        "api": "127.0.0.1:18001",
        "tls": "mutual",
        "api_tls": False,
        "directory": "snapshots/quickstart",
        "resources": {"default": {}, "web": {"endpoints": 2, "clusters": 1}},
    }


def test_the_next_command_is_one_that_the_shell_finds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(tmp_path / ".venv/bin/xds"), "serve"])
    assert "  .venv/bin/xds envoy --node-id" in shown(INFO)
    monkeypatch.setattr("sys.argv", ["/opt/xds/bin/xds", "serve"])
    assert "  /opt/xds/bin/xds envoy --node-id" in shown(INFO)


def test_the_exit_code_is_the_servers(serving: SimpleNamespace, tmp_path: Path) -> None:
    serving.code = 3
    assert CliRunner().invoke(command_line(), ["serve", str(tmp_path), "--log-format", "console"]).exit_code == 3


def test_expected_errors_are_told_without_a_trace(serving: SimpleNamespace, tmp_path: Path) -> None:
    serving.error = BindError("xDS", Address("127.0.0.1", 1), OSError(13, "Permission denied"))
    result = CliRunner().invoke(command_line(), ["serve", str(tmp_path)])
    assert (result.exit_code, result.stderr) == (
        1,
        "xds: the xDS address 127.0.0.1:1 is not allowed to this user; ports below 1024 need CAP_NET_BIND_SERVICE\n",
    )
    problem = Problem(
        file="a.yaml", line=3, group="web", resource="clusters/a", field="name", what="is odd", hint="mend"
    )
    serving.error = ChangesetRejectedError([problem])
    result = CliRunner().invoke(command_line(), ["serve", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "a.yaml:3: [web] clusters/a name: is odd",
        "    mend",
        f"xds: {tmp_path} can't be served: 1 problem, above",
    ]


def test_the_start_tells_what_is_served_where_and_what_to_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert shown(INFO).splitlines() == [
        "serving snapshots/quickstart",
        "  xDS    0.0.0.0:18000  (mTLS)",
        "  admin  http://127.0.0.1:19000",
        "  push   127.0.0.1:18001",
        "",
        "group  clusters  endpoints",
        "web           1          2",
        "",
        "try next",
        "  xds envoy --node-id demo --cluster web --server 127.0.0.1:18000"
        " --tls-ca CA.pem --tls-cert CERT.pem --tls-key KEY.pem",
        "  curl http://127.0.0.1:19000/readyz",
        "",
    ]


def test_the_start_says_https_where_the_admin_port_speaks_tls() -> None:
    lines = shown(replace(INFO, api_tls=True)).splitlines()
    assert "  admin  https://127.0.0.1:19000" in lines
    assert "  push   127.0.0.1:18001  (TLS)" in lines
    assert "  curl --cacert CA.pem https://127.0.0.1:19000/readyz" in lines
    assert not [line for line in lines if "http://" in line]


def test_the_start_says_that_the_directory_is_not_what_is_served() -> None:
    first, *_ = shown(replace(INFO, directory_problem="it is rejected")).splitlines()
    assert first == "NOT serving what snapshots/quickstart has now: it is rejected"


def test_of_many_groups_the_first_are_shown() -> None:
    resources = {f"g{number:03}": {"clusters": 1} for number in range(100)}
    info = ServingInfo(listen=Address("::1", 1), admin=None, api=None, tls="off", directory=None, resources=resources)
    text = shown(info)
    assert "g009" in text
    assert "g010" not in text
    assert "and 90 more" in text
    assert "--server [::1]:1\n" in text
    assert "admin  off" in text
    assert "curl" not in text
