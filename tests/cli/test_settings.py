from pathlib import Path

import pytest

from xds.address import Address
from xds.cli.settings import Given, SettingsRejectedError, load_settings, setting_paths, variable_of
from xds.config import Settings

MAY_BE_GONE = {("directory",), ("schemas",), ("validation", "envoy_path")}
MAY_BE_GONE |= {("access", "tokens_file"), ("access", "audit_file")}
"""Paths that are looked at when the server uses them: the last good state, or what is kept, can be served without."""


def problems(*given: Given, config_file: Path | None = None) -> tuple[str, ...]:
    with pytest.raises(SettingsRejectedError) as caught:
        load_settings(given, config_file=config_file)
    return caught.value.problems


def test_without_any_source_the_defaults_hold() -> None:
    assert load_settings() == Settings()


def test_option_beats_environment_beats_file_beats_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "xds.yaml"
    file.write_text("log: {level: error, format: json}\nlisten: 127.0.0.1:1\nadmin: off\n")
    monkeypatch.setenv("XDS_LISTEN", "127.0.0.1:2")
    monkeypatch.setenv("XDS_LOG__LEVEL", "warning")
    settings = load_settings([Given(("listen",), "127.0.0.1:3", "--listen")], config_file=file)
    assert settings.listen == Address("127.0.0.1", 3)
    assert settings.log.level == "warning"
    assert settings.log.format == "json"
    assert settings.admin is None
    assert settings.protocol == Settings().protocol


def test_a_toml_file_does_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "xds.toml"
    file.write_text('admin = "off"\n[protocol]\nhold_timeout_s = 30\n')
    monkeypatch.setenv("XDS_CONFIG", str(file))
    settings = load_settings()
    assert settings.admin is None
    assert settings.protocol.hold_timeout_s == 30


@pytest.mark.parametrize("path", [path for path in setting_paths() if path not in MAY_BE_GONE])
def test_every_setting_can_come_from_the_environment(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable_of(path), "\x7f nonsense \x7f")
    assert problems()[0].startswith(f"{variable_of(path)}: ")


@pytest.mark.parametrize("path", [path for path in setting_paths() if path not in MAY_BE_GONE])
def test_every_setting_can_come_from_the_file(path: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "xds.yaml"
    indented = "".join(f"{'  ' * depth}{name}:\n" for depth, name in enumerate(path))
    file.write_text(f"{indented.rstrip()} '\\x7f nonsense'\n")
    assert problems(config_file=file)[0].startswith(f"{file}: {'.'.join(path)}: ")


def test_each_problem_names_where_its_value_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "xds.yaml"
    file.write_text("admin: nowhere\nprotocol: {hold_timout_s: 3}\nlog: 3\nlisten: 5\ncolour: red\n")
    monkeypatch.setenv("XDS_TRANSPORT__KIND", "carrier-pigeon")
    given = Given(("drain", "timeout_s"), "long", "--drain-timeout")
    assert problems(given, config_file=file) == (
        f"{file}: listen: 5 is not an address; write HOST:PORT in quotes",
        f"{file}: admin: 'nowhere' has no port; write HOST:PORT, [IPv6]:PORT or unix:/PATH",
        f"{file}: log: is a group of settings; set one of them: log.level, log.format",
        f"{file}: protocol.hold_timout_s: is not a setting; did you mean protocol.hold_timeout_s?",
        "XDS_TRANSPORT__KIND: should be 'native' or 'grpcio', not 'carrier-pigeon'",
        "--drain-timeout: should be a valid number, unable to parse string as a number, not 'long'",
        f"{file}: colour: is not a setting; there are {', '.join(sorted(Settings.model_fields))}",
    )


def test_settings_that_do_not_fit_together_name_their_source_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDS_LISTEN", "0.0.0.0:1")
    monkeypatch.setenv("XDS_PROTOCOL__COALESCE_S", "1")
    first, second = problems()
    assert first.startswith("XDS_LISTEN: 0.0.0.0:1 can be reached from other machines and TLS is off")
    assert second == (
        "protocol.coalesce_max_s (XDS_PROTOCOL__COALESCE_MAX_S): 0.1 s is less than protocol.coalesce_s, 1 s"
    )


def test_a_mistyped_variable_is_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDS_LISTN", "127.0.0.1:1")
    monkeypatch.setenv("XDS_LOG__LEVL", "info")
    assert problems() == (
        "XDS_LISTN: is not a setting; did you mean XDS_LISTEN?",
        "XDS_LOG__LEVL: is not a setting; did you mean log.level?",
    )


def test_variables_of_the_commands_that_ask_a_server_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ADDRESS", "TOKEN_FILE", "CA", "CERT", "KEY", "AUTHOR"):
        monkeypatch.setenv(f"XDS_PUSH_{name}", "x")
    assert load_settings() == Settings()


def test_variables_of_a_kubernetes_service_called_xds_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDS_PORT", "XDS_SERVICE_HOST", "XDS_SERVICE_PORT_GRPC", "XDS_PORT_18000_TCP_ADDR", "XDS_ADMIN_PORT"):
        monkeypatch.setenv(name, "tcp://10.0.0.1:18000")
    assert load_settings() == Settings()


def test_an_empty_variable_is_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDS_TLS__CERT", "")
    monkeypatch.setenv("XDS_CONFIG", "")
    assert load_settings() == Settings()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("xds.yaml", "a: [", ":1: is not YAML: "),
        ("xds.yaml", "- a\n", ": holds a list, not settings"),
        ("xds.toml", "a = ", ": "),
        ("xds.ini", "", ": a settings file is called *.yaml, *.yml, *.json or *.toml"),
    ],
)
def test_a_file_that_can_not_be_read_is_one_problem(tmp_path: Path, name: str, content: str, told: str) -> None:
    file = tmp_path / name
    file.write_text(content)
    (problem,) = problems(config_file=file)
    assert problem.startswith(f"{file}{told}")
    assert "\n" not in problem


def test_a_missing_file_and_an_empty_one_differ(tmp_path: Path) -> None:
    missing = tmp_path / "xds.yaml"
    assert problems(config_file=missing) == (f"{missing}: the settings file can't be read: No such file or directory",)
    missing.write_text("# nothing set\n")
    assert load_settings(config_file=missing) == Settings()
