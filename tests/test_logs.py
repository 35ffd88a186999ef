import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator

import pytest
import structlog

from xds.logs import configure_logging, is_json


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("xds")
    before = (root.handlers[:], root.level, ours.level)
    yield
    root.handlers[:], root.level, ours.level = before
    logging.captureWarnings(False)
    structlog.reset_defaults()


def test_json_has_one_object_per_event() -> None:
    stream = io.StringIO()
    configure_logging(form="json", stream=stream)
    structlog.get_logger("xds.sources").warning("change rejected", problems=["a\nb", 2], path=sys)
    (line,) = stream.getvalue().splitlines()
    event = json.loads(line)
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        "event": "change rejected",
        "level": "warning",
        "logger": "xds.sources",
        "problems": ["a\nb", 2],
        "path": str(sys),
    }


def test_console_keeps_what_a_peer_sent_on_its_line() -> None:
    stream = io.StringIO()
    configure_logging(form="console", stream=stream)
    log = structlog.get_logger("xds.protocol")
    log.info("NACK\x1b[2J\n2026 [info] forged", node="n\n1", detail="bad \x1b[31m\r\nline", odd="\x9b2J")
    (line,) = stream.getvalue().splitlines()
    assert line[8:] == (
        " [info     ] NACK\\x1b[2J\\n2026 [info] forged [xds.protocol] "
        "detail='bad \\x1b[31m\\r\\nline' node='n\\n1' odd=\\x9b2J"
    )


def test_other_libraries_come_out_alike_from_warning_on() -> None:
    stream = io.StringIO()
    configure_logging(level="info", form="json", stream=stream)
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 1)
    logging.getLogger("asyncio").warning("slow %s", "callback", extra={"took_s": 2})
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["logger"] for event in events] == ["asyncio", "py.warnings"]
    assert (events[0]["event"], events[0]["took_s"]) == ("slow callback", 2)


@pytest.mark.parametrize(("level", "shown"), [("debug", "diwe"), ("info", "iwe"), ("warning", "we"), ("error", "e")])
def test_ours_are_shown_from_the_level_on(level: str, shown: str) -> None:
    stream = io.StringIO()
    configure_logging(level=level, form="json", stream=stream)  # type: ignore[arg-type]
    log = structlog.get_logger("xds.any")
    for write in (log.debug, log.info, log.warning, log.error):
        write("event")
    assert "".join(json.loads(line)["level"][0] for line in stream.getvalue().splitlines()) == shown


def test_a_bug_keeps_its_trace_and_json_keeps_its_line() -> None:
    stream = io.StringIO()
    configure_logging(form="json", stream=stream)
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        structlog.get_logger("xds.any").exception("a bug")
    (line,) = stream.getvalue().splitlines()
    assert "RuntimeError: boom" in json.loads(line)["exception"]


def test_auto_is_for_people_on_a_terminal_and_json_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_json("auto", io.StringIO())
    assert not is_json("auto", Terminal())
    assert is_json("json", Terminal())
    assert not is_json("console", io.StringIO())
    monkeypatch.delenv("NO_COLOR", raising=False)
    for no_color, colored in (("", True), ("1", False)):
        monkeypatch.setenv("NO_COLOR", no_color)
        stream = Terminal()
        configure_logging(stream=stream)
        structlog.get_logger("xds.any").info("event")
        assert ("\x1b[" in stream.getvalue()) == colored
