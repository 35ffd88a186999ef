"""A version that many clients reject is one log line, however many processes serve them."""

import structlog

from xds.protocol.status import Nacked
from xds.reporting.rejections import ALERT_COUNT, RESPONSES_MAX, VERSIONS_MAX, Rejected, RejectionLog, Rejections

CLUSTERS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"


def nacked(resources: dict[str, str], group: str = "default") -> Nacked:
    return Nacked(node_id="n", group=group, type_url=CLUSTERS, nonce="1", message="why", resources=resources)


def test_rejections_in_two_processes_are_one_line_that_names_the_version() -> None:
    log = RejectionLog()
    processes = [Rejections(lambda told, number=number: log.take(number, told)) for number in range(2)]
    with structlog.testing.capture_logs() as lines:
        for round_ in range(1_000):
            for each, resources in zip(processes, ({"bad": "v1"}, {"bad": "v1"}), strict=True):
                each.take(nacked(resources))
            if round_ == ALERT_COUNT // 2 - 2:
                assert lines == []
    assert [(line["log_level"], line["group"], line["type"], line["resources"], line["message"]) for line in lines] == [
        ("error", "default", "clusters", ["bad"], "why")
    ]


def test_each_version_and_group_has_its_line() -> None:
    log = RejectionLog()
    rejections = Rejections(lambda told: log.take(0, told))
    versions = [nacked({"bad": "v1"}), nacked({"bad": "v2"}), nacked({"bad": "v1"}, "web")]
    with structlog.testing.capture_logs() as lines:
        for _ in range(100):
            for version in versions:
                rejections.take(version)
    assert len(lines) == len(versions)


def test_a_process_reports_the_first_rejections_of_a_version_only() -> None:
    told: list[Rejected] = []
    rejections = Rejections(told.append)
    version = nacked({f"c{number}": "v" for number in range(100)})
    for _ in range(100):
        rejections.take(version)
    assert [each.count for each in told] == list(range(1, ALERT_COUNT + 1))
    assert (len(told[0].names), told[0].names_count) == (20, 100)


def test_what_is_kept_is_bounded() -> None:
    log = RejectionLog()
    rejections = Rejections(lambda told: log.take(0, told))
    for number in range(2 * VERSIONS_MAX):
        rejections.take(nacked({"bad": f"v{number}"}))
    kept = (len(rejections._counts), len(rejections._keys), len(log._totals))
    assert kept == (VERSIONS_MAX, RESPONSES_MAX, VERSIONS_MAX)
