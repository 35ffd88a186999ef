"""Write xds/monitoring/dashboard.json, the dashboard for Grafana.

``make docs-reference`` runs it, and a test compares.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SOURCE = {"type": "prometheus", "uid": "${source}"}
ONE = 'job="$job", instance=~"$instance"'
WIDTH, HEIGHT = 8, 7


def quantiles(name: str, by: str = "") -> list[tuple[str, str]]:
    """Return the queries of a histogram's median and 99th percentile."""
    labels = f"le, {by}" if by else "le"
    text = "histogram_quantile({share}, sum by ({labels}) (rate({name}_bucket{{{one}}}[$__rate_interval])))"
    legend = f" {{{{{by}}}}}" if by else ""
    return [
        (text.format(share=share, labels=labels, name=name, one=ONE), f"p{percent}{legend}")
        for share, percent in ((0.5, 50), (0.99, 99))
    ]


def rate(name: str, by: str, more: str = "") -> tuple[str, str]:
    """Return the query of a counter's rate by labels."""
    legend = " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(","))
    return f"sum by ({by}) (rate({name}{{{ONE}{more}}}[$__rate_interval]))", legend


def gauge(name: str, by: str) -> tuple[str, str]:
    """Return the query of a gauge by labels."""
    legend = " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(","))
    return f"sum by ({by}) ({name}{{{ONE}}})", legend


def of_all(name: str, by: str, only: str = "") -> tuple[str, str]:
    """Return the query of a gauge that each replica tells of all: the highest, not the sum."""
    legend = " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(","))
    return f"max by ({by}) ({name}{{{ONE}{only}}})", legend


ROWS: dict[str, list[tuple[str, str, list[tuple[str, str]]]]] = {
    "Convergence": [
        (
            "Nodes by state",
            "short",
            [
                (f'sum by (state) (xds_nodes{{{ONE}, state!="gone"}})', "{{state}}"),
                (f'sum by (state) (max by (group, state) (xds_nodes{{{ONE}, state="gone"}}))', "{{state}}"),
            ],
        ),
        ("Commit to accepted, per node", "s", quantiles("xds_commit_to_accepted_seconds")),
        ("Commit to accepted by group (p99)", "s", quantiles("xds_commit_to_accepted_seconds", "group")[1:]),
        ("Commit to sent, per response", "s", quantiles("xds_commit_to_sent_seconds")),
        ("Connect to synced", "s", quantiles("xds_connect_to_synced_seconds")),
        ("Rejected responses by group and type", "short", [rate("xds_nacks_total", "group, type")]),
    ],
    "Nodes and traffic": [
        ("Streams by replica", "short", [gauge("xds_streams", "instance")]),
        (
            "Nodes not accepted, by group",
            "short",
            [
                (f'sum by (group, state) (xds_nodes{{{ONE}, state!~"accepted|gone"}})', "{{group}} {{state}}"),
                of_all("xds_nodes", "group, state", ', state="gone"'),
            ],
        ),
        (
            "Streams opened and closed",
            "short",
            [
                rate("xds_streams_opened_total", "instance"),
                rate("xds_streams_closed_total", "instance"),
            ],
        ),
        ("Responses by type", "reqps", [rate("xds_responses_total", "type")]),
        (
            "Resources and removals sent",
            "short",
            [
                rate("xds_resources_sent_total", "type"),
                rate("xds_removals_sent_total", "type"),
            ],
        ),
        ("Bytes sent by group", "Bps", [rate("xds_response_bytes_total", "group")]),
        ("Requests, ACKs", "reqps", [rate("xds_requests_total", "type"), rate("xds_acks_total", "type")]),
        (
            "Overdue answers, refused streams",
            "short",
            [
                rate("xds_overdue_total", "instance"),
                rate("xds_streams_refused_total", "instance"),
            ],
        ),
        ("Resources served by type", "short", [of_all("xds_resources", "type")]),
    ],
    "Changes": [
        ("Revision by replica", "short", [gauge("xds_revision", "instance")]),
        ("Changes", "s", quantiles("xds_push_seconds")),
        ("Store", "s", quantiles("xds_store_seconds")),
        ("Waiting changes", "short", [gauge("xds_push_queue", "instance")]),
        ("Calls by call and outcome", "reqps", [rate("xds_api_requests_total", "call, outcome")]),
        ("Refused changes", "short", [rate("xds_changesets_rejected_total", "instance")]),
    ],
    "Processes": [
        ("CPU by process", "percentunit", [rate("xds_process_cpu_seconds_total", "instance, process")]),
        ("Memory by process", "bytes", [gauge("xds_process_resident_bytes", "instance, process")]),
        ("Loop lag by process (p99)", "s", quantiles("xds_loop_lag_seconds", "process")[1:]),
        (
            "Workers not serving, restarts",
            "short",
            [
                gauge("xds_workers_silent", "instance"),
                gauge("xds_workers_missing", "instance"),
                rate("xds_worker_restarts_total", "instance"),
            ],
        ),
        (
            "Memory of all processes",
            "bytes",
            [
                gauge("xds_memory_used_bytes", "instance"),
                gauge("xds_memory_limit_bytes", "instance"),
            ],
        ),
        (
            "Steps that were cached",
            "percentunit",
            [
                (
                    f'sum by (event) (rate(xds_steps_total{{{ONE}, cached="true"}}[$__rate_interval]))'
                    f" / sum by (event) (rate(xds_steps_total{{{ONE}}}[$__rate_interval]))",
                    "{{event}}",
                ),
            ],
        ),
        ("Cohorts", "short", [gauge("xds_cohorts", "instance")]),
        ("Cache of responses", "short", [rate("xds_response_cache_total", "result")]),
        (
            "Versions",
            "short",
            [
                (
                    f"count by (version, envoy_api, python) (xds_build_info{{{ONE}}})",
                    "{{version}} {{envoy_api}} {{python}}",
                ),
            ],
        ),
    ],
    "Limits and access": [
        ("Limits hit", "short", [rate("xds_limit_hits_total", "limit")]),
        ("Refused by TLS", "short", [rate("xds_tls_failures_total", "port, reason")]),
        (
            "Refused credentials and rights",
            "short",
            [
                rate("xds_credentials_refused_total", "reason"),
                rate("xds_rights_refused_total", "instance"),
                rate("xds_tokens_refused_total", "reason"),
            ],
        ),
        (
            "Days until certificates expire",
            "d",
            [
                (f"(xds_certificate_expiry_timestamp_seconds{{{ONE}}} - time()) / 86400", "{{subject}}"),
            ],
        ),
        (
            "Stale, refusing, directory rejected, access files",
            "short",
            [
                gauge("xds_stale", "instance"),
                gauge("xds_refusing", "instance"),
                gauge("xds_directory_rejected", "instance"),
                gauge("xds_access_problem", "instance"),
            ],
        ),
        ("Died tasks", "short", [rate("xds_background_deaths_total", "task")]),
    ],
}
"""By row: the panels with their unit and their queries, each with its legend."""


def panels() -> Iterator[dict[str, Any]]:
    """Yield all panels at their places, three in a row."""
    number, y = 1, 0
    for title, row in ROWS.items():
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "panels": []} | {
            "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}
        }
        number, y = number + 1, y + 1
        for index, (name, unit, queries) in enumerate(row):
            yield {
                "id": number,
                "type": "timeseries",
                "title": name,
                "datasource": SOURCE,
                "gridPos": {"x": index % 3 * WIDTH, "y": y + index // 3 * HEIGHT, "w": WIDTH, "h": HEIGHT},
                "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
                "options": {"legend": {"displayMode": "list"}, "tooltip": {"mode": "multi", "sort": "desc"}},
                "targets": [
                    {"refId": chr(ord("A") + at), "datasource": SOURCE, "expr": query, "legendFormat": legend}
                    for at, (query, legend) in enumerate(queries)
                ],
            }
            number += 1
        y += (len(row) + 2) // 3 * HEIGHT


def dashboard() -> dict[str, Any]:
    """Return the dashboard."""
    instances = 'label_values(xds_build_info{job="$job"}, instance)'
    return {
        "title": "xds control plane",
        "uid": "xds-control-plane",
        "tags": ["xds", "envoy"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
                _variable("job", "Job", "label_values(xds_build_info, job)", several=False),
                _variable("instance", "Replica", instances, several=True),
            ]
        },
        "annotations": {"list": []},
        "panels": list(panels()),
    }


def _variable(name: str, label: str, query: str, *, several: bool) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "includeAll": several,
        "multi": several,
        **({"allValue": ".*", "current": {"text": "All", "value": "$__all"}} if several else {}),
    }


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description="Write the dashboard for Grafana.")
    parser.add_argument("--output", type=Path, default=ROOT / "xds" / "monitoring" / "dashboard.json")
    parser.parse_args().output.write_text(json.dumps(dashboard(), indent=1) + "\n")


if __name__ == "__main__":
    main()
