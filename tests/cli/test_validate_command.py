import json
from pathlib import Path

import pytest
from support import resources as r
from support.envoy import envoy_binary

CLUSTER = """\
resources:
- '@type': type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: web
  type: STATIC
  connect_timeout: 1s
"""


def test_a_good_directory_is_summed_up(xds, tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "clusters.yaml").write_text(CLUSTER)
    done = xds("validate", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split() for line in done.stdout.splitlines()[:2]] == [["group", "clusters"], ["web", "1"]]
    assert f"{tmp_path} is fine (" in done.stdout


def test_all_problems_are_told_with_their_places(xds, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(CLUSTER.replace("connect_timeout", "conect_timeout"))
    (tmp_path / "b.yaml").write_text("resources: [\n")
    done = xds("validate", tmp_path)
    assert done.returncode == 1
    assert "a.yaml:5: " in done.stdout
    assert "connect_timeout" in done.stdout
    assert "b.yaml:" in done.stdout
    assert done.stdout.endswith("\n2 problems in 2 files\n")
    assert done.stderr == ""


def test_dangling_references_are_problems(xds, tmp_path: Path) -> None:
    eds = "  type: EDS\n  eds_cluster_config: {eds_config: {ads: {}}, service_name: nowhere}\n"
    (tmp_path / "a.yaml").write_text(CLUSTER.replace("  type: STATIC\n", eds))
    done = xds("validate", tmp_path)
    assert done.returncode == 1
    assert "nowhere" in done.stdout


def test_json_holds_the_same(xds, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(CLUSTER)
    done = xds("validate", tmp_path, "--format", "json")
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert report.pop("elapsed_s") >= 0
    assert report == {
        "ok": True,
        "directory": str(tmp_path),
        "groups": {"default": {"clusters": 1}},
        "problems": [],
        "warnings": [],
    }

    file.write_text(CLUSTER.replace("connect_timeout", "conect_timeout"))
    done = xds("validate", tmp_path, "--format", "json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"], report["groups"]) == (1, False, {})
    (problem,) = report["problems"]
    assert problem.keys() == {"what", "hint", "file", "line", "group", "resource", "field", "suggests"}
    assert problem["line"] == 5


def test_an_empty_directory_is_said_to_be_empty(xds, tmp_path: Path) -> None:
    done = xds("validate", tmp_path)
    assert done.returncode == 0
    assert "holds no resources" in done.stdout


def test_no_directory_is_a_usage_error(xds, tmp_path: Path) -> None:
    done = xds("validate", tmp_path / "none")
    assert done.returncode == 2
    assert "does not exist" in done.stderr


ONLY_ENVOY_KNOWS = CLUSTER + "".join(f"  {key}: {json.dumps(value)}\n" for key, value in r.REFUSED_BY_ENVOY.items())


@pytest.mark.envoy
def test_a_real_envoy_judges_what_nothing_else_knows(xds, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(ONLY_ENVOY_KNOWS)
    assert xds("validate", tmp_path).returncode == 0
    done = xds("validate", "--envoy", tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "a.yaml:2: [default] clusters/web typed_extension_protocol_options" in done.stdout
    assert f"Envoy: {r.REFUSED_WORDS}" in done.stdout
    file.write_text(CLUSTER)
    done = xds("validate", tmp_path, f"--envoy={envoy_binary()}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.envoy
def test_what_envoy_could_not_judge_as_it_is_is_warned_of(xds, tmp_path: Path) -> None:
    lines = [
        "resources:",
        "- '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "  name: pair",
        "  tls_certificate: {certificate_chain: {filename: /etc/c.pem}, private_key: {filename: /etc/k.pem}}",
    ]
    (tmp_path / "a.yaml").write_text("\n".join(lines) + "\n")
    done = xds("validate", tmp_path, "--envoy", "--format", "json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["problems"]) == (0, [])
    assert [each["field"] for each in report["warnings"]] == [
        "tls_certificate.certificate_chain",
        "tls_certificate.private_key",
    ]


def test_an_envoy_that_is_not_there_is_told(xds, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(CLUSTER)
    done = xds("validate", tmp_path, "--envoy=/none/envoy")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "xds: '/none/envoy' is not a program that can be run; name an Envoy binary\n"


def test_the_size_limit_is_that_of_the_server_that_is_to_serve(xds, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{CLUSTER}  alt_stat_name: {'x' * 70_000}\n")
    assert xds("validate", tmp_path).returncode == 0
    by_option = xds("validate", tmp_path, "--resource-bytes-max", "65536")
    by_variable = xds("validate", tmp_path, XDS_PROTOCOL__RESOURCE_BYTES_MAX="65536")
    for done in (by_option, by_variable):
        assert done.returncode == 1
        assert "more than the 65,536 allowed (protocol.resource_bytes_max)" in done.stdout
