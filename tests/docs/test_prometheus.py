"""The alerts fire when they should; they, the dashboard and the page about Prometheus name metrics that there are."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import resources as r
from support.metrics import samples
from support.pages import ROOT
from support.server import XdsServer
from support.toolchains import without
from support.wire import DeltaClient

from xds.client import Client

PAGE = "docs/how-to/prometheus.md"
RULES, DASHBOARD = ROOT / "xds/monitoring/rules.yml", ROOT / "xds/monitoring/dashboard.json"
ALERTS = Path(__file__).with_name("alerts.yml")
SUFFIXES = re.compile(r"_(bucket|sum|count)$")


def promtool(*arguments: str, cwd: Path) -> str:
    if shutil.which("promtool") is None:
        without(FileNotFoundError("there is no promtool: install Debian's prometheus"))
    command = ["promtool", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return group["rules"]


def queries() -> Iterator[str]:
    """Yield the queries of the dashboard, with its variables filled in."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"].replace("$job", "xds").replace("$instance", "a|b")
            yield query.replace("$__rate_interval", "1m")


def named(texts: list[str]) -> set[str]:
    """Return the metrics that queries name, histograms without their suffixes."""
    return {SUFFIXES.sub("", name) for text in texts for name in re.findall(r"\bxds_\w+", text)}


def test_each_alert_fires_and_none_does_while_all_is_well(tmp_path: Path) -> None:
    shutil.copy(RULES, tmp_path / "xds.rules.yml")
    shutil.copy(ALERTS, tmp_path)
    promtool("test", "rules", ALERTS.name, cwd=tmp_path)
    tested = set(re.findall(r'alertname="(\w+)"', ALERTS.read_text()))
    assert tested == {rule["alert"] for rule in rules()}


def test_each_alert_has_its_section_of_the_runbook() -> None:
    sections = re.findall(r"^## (\w+)$", (ROOT / "docs/runbook.md").read_text(), re.MULTILINE)
    assert sections == [rule["alert"] for rule in rules()]
    for rule in rules():
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_the_dashboard_is_what_its_source_says(tmp_path: Path) -> None:
    written = tmp_path / "dashboard.json"
    command = [sys.executable, ROOT / "docs/site/dashboard.py", "--output", written]
    subprocess.run(command, check=True, timeout=60)
    assert written.read_text() == DASHBOARD.read_text(), "run: make docs-reference"


def test_each_query_of_the_dashboard_is_one(tmp_path: Path) -> None:
    recorded = [{"record": f"q:{number}", "expr": query} for number, query in enumerate(queries())]
    (tmp_path / "q.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": recorded}]}))
    assert f"SUCCESS: {len(recorded)} rules found" in promtool("check", "rules", "q.yml", cwd=tmp_path)
    assert len(recorded) > 40


def test_no_query_sums_over_replicas_what_each_of_them_tells_of_all() -> None:
    page = re.findall(r"`((?:sum|max|count|rate|histogram)[^`]*)`", (ROOT / PAGE).read_text())
    asked = [*queries(), *(rule["expr"] for rule in rules()), *page]
    summed = r"sum by \(([^)]*)\) \((xds_(?:nodes|resources|groups|revision))(?:\{([^}]*)\})?\)"
    found = [each for query in asked for each in re.findall(summed, query)]
    assert len(found) >= 4
    own = r'state(!="gone"|!~"accepted\|gone"|="pending"|="rejected")'
    for by, name, only in found:
        assert "instance" in by or (name == "xds_nodes" and re.search(own, only)), (by, name, only)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return the metrics of a server with workers: once two nodes have a change, and once one has rejected another."""

    async def scrapes() -> tuple[str, str]:
        directory = r.write_directory(tmp_path_factory.mktemp("files"), [r.static_cluster("b", 1)], group="files")
        async with XdsServer(directory, "--workers", "2") as server:
            await server.wait_ready()
            async with (
                Client(f"127.0.0.1:{server.api_port}") as client,
                DeltaClient(server.port, node_id="n1") as one,
                DeltaClient(server.port, node_id="n2") as two,
            ):
                await client.apply(upsert=[r.static_cluster("a", 1)])
                for node in (one, two):
                    await node.subscribe(r.CLUSTER)
                    await node.take_until(lambda node=node: "a" in node.view.get(r.CLUSTER, {}))
                await client.apply(upsert=[r.static_cluster("a", 2)])
                for node in (one, two):
                    await node.take()
                await server.wait_metrics(lambda said: said["xds_acks_total"] == said["xds_responses_total"] >= 4)
                calm = (await server.admin("/metrics")).text
                await client.apply(upsert=[r.static_cluster("a", 3)])
                await one.take()
                await two.nack(await two.next(), "no")
                await server.wait_metrics(server.is_quiet)
                return calm, (await server.admin("/metrics")).text

    return asyncio.run(scrapes())


def test_every_metric_that_is_named_is_in_a_real_scrape(run: tuple[str, str]) -> None:
    there = set(re.findall(r"^# TYPE (xds_\w+) ", run[1], re.MULTILINE))
    page = (ROOT / PAGE).read_text()
    assert named([page]) - there == set()
    assert named([rule["expr"] for rule in rules()]) - there == set()
    assert named(list(queries())) - there == set()
    documented = set(re.findall(r"^\| `(xds_\w+)`", (ROOT / "docs/reference/metrics.md").read_text(), re.MULTILINE))
    assert there - documented == set()


def test_the_labels_of_queries_are_those_of_a_real_scrape(run: tuple[str, str]) -> None:
    """A query by a label that its metric lacks shows nothing, and nobody notices."""
    labels: dict[str, set[str]] = {}
    for name, given, _ in samples(run[1]):
        labels.setdefault(name, set()).update(given)
    asked = [*queries(), *(rule["expr"] for rule in rules())]
    for query in asked:
        for by, name in re.findall(r"sum by \(([^)]*)\) \((?:rate\(|increase\()?(xds_\w+)", query):
            if name in labels:
                assert set(by.replace(" ", "").split(",")) - {"job", "instance"} <= labels[name], query


def test_on_series_of_a_real_run_the_alert_of_rejections_fires_and_no_other(
    run: tuple[str, str], tmp_path: Path
) -> None:
    """Twenty minutes as after the first scrape, then twenty as after the second."""
    before, after = ({(name, tuple(given.items())): value for name, given, value in samples(each)} for each in run)
    series = [{"series": 'up{job="xds", instance="a"}', "values": "1x160"}]
    for (name, given), value in after.items():
        labels = {"job": "xds", "instance": "a", **dict(given)}
        text = ", ".join(f"{label}={json.dumps(each)}" for label, each in labels.items())
        first = before.get((name, given))
        values = f"{value:f}x80" if first is None else f"{first:f}x80 {value:f}x80"
        series.append({"series": f"{name}{{{text}}}", "values": values})
    firing = 'ALERTS{alertstate="firing"}'
    alerts = ("XdsNodesRejected", "XdsRejectedByEnvoy")
    tests = {
        "rule_files": ["xds.rules.yml"],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [each for each in series if "process_start" not in each["series"]],
                "promql_expr_test": [
                    {"expr": firing, "eval_time": "19m", "exp_samples": []},
                    *[
                        {
                            "expr": f"count by (alertname) ({firing})",
                            "eval_time": at,
                            "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in names],
                        }
                        for at, names in (("22m", alerts[1:]), ("35m", alerts[:1]))
                    ],
                ],
            }
        ],
    }
    shutil.copy(RULES, tmp_path / "xds.rules.yml")
    (tmp_path / "run.yml").write_text(yaml.safe_dump(tests))
    promtool("test", "rules", "run.yml", cwd=tmp_path)
