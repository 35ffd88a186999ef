import json
import subprocess
from pathlib import Path

import pytest
import yaml
from support.envoy import envoy_binary
from support.pki import Authority
from typer.testing import CliRunner

from xds.cli.main import command_line

BASE = ["bootstrap", "--node-id", "n1", "--cluster", "web", "--server", "127.0.0.1:18000"]


def printed(*arguments: str) -> str:
    result = CliRunner().invoke(command_line(), [*BASE, *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(command_line(), [*BASE, *arguments])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.envoy
def test_what_is_printed_is_all_that_envoy_needs(tmp_path: Path, xds) -> None:
    authority = Authority(tmp_path)
    pair = authority.client("n1")
    tls = ["--tls-ca", authority.cert_path, "--tls-cert", pair.cert_path, "--tls-key", pair.key_path]
    place = ["--region", "r", "--zone", "z", "--sub-zone", "s", "--metadata", "labels.stage=prod", "--metadata", "w:=3"]
    done = xds(*BASE, "--sotw", "--per-type", *tls, *place, "--admin-port", "0", "--fetch-timeout", "500ms")
    assert done.stderr == ""
    file = tmp_path / "envoy.yaml"
    file.write_text(done.stdout)
    argv = [envoy_binary(), "--mode", "validate", "-c", file, "--disable-hot-restart", "-l", "warning"]
    checked = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert checked.returncode == 0, checked.stderr
    bootstrap = yaml.safe_load(done.stdout)
    assert bootstrap["node"] == {
        "id": "n1",
        "cluster": "web",
        "locality": {"region": "r", "zone": "z", "sub_zone": "s"},
        "metadata": {"labels": {"stage": "prod"}, "w": 3},
    }
    assert bootstrap["dynamic_resources"]["cds_config"]["initial_fetch_timeout"] == "0.5s"


def test_yaml_and_json_say_the_same() -> None:
    assert yaml.safe_load(printed()) == json.loads(printed("--format", "json"))


def test_grpc_clients_get_json() -> None:
    bootstrap = json.loads(printed("--grpc"))
    assert bootstrap["xds_servers"][0]["channel_creds"] == [{"type": "insecure"}]
    assert bootstrap["node"] == {"id": "n1", "cluster": "web"}


def test_the_injector_s_bootstrap_names_the_file_that_is_printed_separately() -> None:
    token = ["--token-file", "/run/token", "--token-sds", "/etc/envoy/token.yaml"]
    assert "It needs /etc/envoy/token.yaml: the same command with --print-token-sds prints it." in printed(*token)
    secret = yaml.safe_load(printed(*token, "--print-token-sds"))["resources"][0]
    assert secret["generic_secret"] == {"secret": {"filename": "/run/token"}}
    assert json.loads(printed(*token, "--print-token-sds", "--format", "json"))["resources"] == [secret]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--server", "127.0.0.1"], "--server: '127.0.0.1' has no port; write HOST:PORT"),
        (["--server", "127.0.0.1:0"], "--server: the control plane can't be at port 0"),
        (["--node-id", ""], "--node-id: must not be empty"),
        (["--cluster", ""], "--cluster: must not be empty"),
        (["--fetch-timeout", "soon"], "--fetch-timeout: 'soon' is not a time; write 15s, 500ms or 2m"),
        (["--metadata", "stage"], "--metadata: 'stage' is not KEY=VALUE"),
        (["--metadata", "a..b=1"], "--metadata: 'a..b=1' is not KEY=VALUE"),
        (["--metadata", "w:=three"], "--metadata: 'w:=three': 'three' is not JSON"),
        (["--metadata", "a=1", "--metadata", "a.b=2"], "--metadata: 'a.b=2': a.b is given twice"),
        (["--metadata", "a=1", "--metadata", "a=2"], "--metadata: 'a=2': a is given twice"),
        (["--tls-cert", "c.pem"], "--tls-ca: --tls-cert needs --tls-ca"),
        (["--tls-ca", "ca.pem", "--tls-cert", "c.pem"], "--tls-key: a client certificate and its key go together"),
        (["--grpc", "--format", "yaml"], "--format: grpc reads JSON only"),
        (["--grpc", "--per-type"], "--per-type: grpc's xDS clients know only the aggregated stream"),
        (["--grpc", "--tls-ca", "ca.pem", "--tls-server-name", "x"], "--tls-server-name: grpc checks"),
        (["--token-file", "t"], "--token-sds: Envoy's injector takes the token from a secret"),
        (["--token-file", ""], "--token-file: is empty"),
        (["--token-via", "google-grpc"], "--token-file: is for a token; give its file"),
        (["--token-sds", "t.yaml"], "--token-file: is for a token; give its file"),
        (["--print-token-sds"], "--print-token-sds: is for --token-file"),
        (["--token-file", "t", "--token-via", "google-grpc"], "google-grpc: sends tokens over TLS only; give --tls-ca"),
        (["--token-file", "t", "--token-sds", "s", "--server", "cp:1"], "the token would be sent in clear to cp:1"),
        (["--grpc", "--token-file", "t"], "--token-file: grpc sends tokens over TLS only"),
        (["--grpc", "--token-file", "t", "--tls-ca", "c", "--token-sds", "s"], "--token-sds: is for Envoy"),
    ],
)
def test_a_wrong_option_is_named_with_what_would_be_right(arguments: list[str], told: str) -> None:
    assert told in refused(*arguments)


EXTRA = """
staticResources:
  clusters:
  - name: local
    connect_timeout: 1s
  listeners:
  - name: probe
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains: [{}]
stats_flush_interval: 7s
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 9999}}}
node: {metadata: {more: {b: 2}}}
dynamic_resources: {cds_config: {path_config_source: {path: /clusters.yaml}}}
"""


@pytest.mark.envoy
def test_files_are_merged_as_envoy_merges_a_bootstrap(tmp_path: Path) -> None:
    """Messages field by field; lists are appended; of a oneof, the later one stays."""
    file = tmp_path / "extra.yaml"
    file.write_text(EXTRA)
    (tmp_path / "more.json").write_text('{"static_resources": {"clusters": [{"name": "again", "type": "STATIC"}]}}')
    options = ["--metadata", "a=1", "--runtime-layer", "base", "--runtime-layer", "top"]
    ours = yaml.safe_load(printed(*options, "--merge", str(file), "--merge", str(tmp_path / "more.json")))
    assert [each["name"] for each in ours["static_resources"]["clusters"]] == ["xds", "local", "again"]
    assert [each["name"] for each in ours["static_resources"]["listeners"]] == ["probe"]
    assert ours["admin"]["address"]["socket_address"]["port_value"] == 9999
    assert ours["node"] == {"id": "n1", "cluster": "web", "metadata": {"a": "1", "more": {"b": 2}}}
    assert set(ours["dynamic_resources"]["cds_config"]) == {
        "resource_api_version",
        "initial_fetch_timeout",
        "path_config_source",
    }
    assert [next(iter(each.keys() - {"name"})) for each in ours["layered_runtime"]["layers"]] == [
        "rtds_layer",
        "rtds_layer",
        "admin_layer",
    ]
    merged = tmp_path / "merged.yaml"
    merged.write_text(
        printed(*options, "--merge", str(file)).replace("/clusters.yaml", str(tmp_path / "clusters.yaml"))
    )
    (tmp_path / "clusters.yaml").write_text("resources: []")
    argv = [envoy_binary(), "--mode", "validate", "-c", merged, "--disable-hot-restart", "-l", "warning"]
    checked = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("static_resource: {}", "extra.yaml:1: static_resource: "),
        (
            "static_resources:\n  clusters:\n  - name: a\n    typ: STATIC",
            "extra.yaml:4: static_resources.clusters[0].typ",
        ),
        ("static_resources: {clusters: [{name: xds}]}", "clusters/xds static_resources.clusters: is there twice"),
        ("- a", "is not a mapping"),
        ("a: [", "extra.yaml"),
        (None, "No such file"),
    ],
)
def test_what_is_wrong_with_a_file_to_merge_is_told_with_its_place(
    content: str | None, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "extra.yaml").write_text(content)
    assert told in refused("--merge", "extra.yaml")


def test_layers_have_names_of_their_own() -> None:
    for layers in (["a", "a"], [""], ["admin"]):
        options = [part for layer in layers for part in ("--runtime-layer", layer)]
        assert "one name, once" in refused(*options)
    assert "grpc's bootstrap has no such part" in refused("--grpc", "--runtime-layer", "a")
    assert "grpc's bootstrap has no such part" in refused("--grpc", "--merge", "a")
