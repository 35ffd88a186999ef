"""The alerts of docs/how-to/prometheus.md fire when they should, and name metrics that there are."""

import re
import shutil
import subprocess
from pathlib import Path

from support.pages import ROOT, blocks
from support.toolchains import without

PAGE = "docs/how-to/prometheus.md"
ALERTS = Path(__file__).with_name("alerts.yml")


def rules() -> str:
    (text,) = [block.text for block in blocks(PAGE) if block.title == "xds.rules.yml"]
    return text


def test_each_alert_fires_and_none_does_while_all_is_well(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        without(FileNotFoundError("there is no promtool: install Debian's prometheus"))
    (tmp_path / "xds.rules.yml").write_text(rules())
    shutil.copy(ALERTS, tmp_path)
    command = ["promtool", "test", "rules", ALERTS.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    tested = set(re.findall(r'alertname="(\w+)"', ALERTS.read_text()))
    assert tested == set(re.findall(r"alert: (\w+)", rules()))


def test_alerts_and_queries_name_metrics_that_there_are() -> None:
    known = set(re.findall(r"^\| `(xds_\w+)`", (ROOT / "docs/reference/metrics.md").read_text(), re.MULTILINE))
    used = set(re.findall(r"\bxds_\w+", (ROOT / PAGE).read_text()))
    assert used - known == set()
    assert {"xds_nacks_total", "xds_streams"} <= used
