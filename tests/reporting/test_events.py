"""Events of streams in the log."""

import structlog
from structlog.testing import capture_logs

from xds.protocol.status import UnknownType
from xds.reporting.events import log_event


def test_an_unknown_type_is_logged_with_what_to_do(monkeypatch) -> None:
    monkeypatch.setattr("xds.reporting.events.peers_log.warning", structlog.get_logger("xds").warning)
    with capture_logs() as logs:
        log_event(UnknownType(node_id="n1", group="prod", type_url="type.googleapis.com/acme.v1.Thing"))

    (line,) = logs
    assert (line["event"], line["node"], line["type"]) == ("unknown type", "n1", "type.googleapis.com/acme.v1.Thing")
    assert "--schema" in line["hint"]
