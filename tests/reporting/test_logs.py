import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator

import pytest
import structlog

from xds.reporting.escaping import HIDDEN
from xds.reporting.logs import Format, configure_logging, is_json


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


HOSTILE = "\x1b]0;x\x07\x9b2J\u202e\u2066\u200b\u2028\ud800\r\n2026 [info] forged"


@pytest.mark.parametrize("form", ["console", "json"])
def test_nothing_that_a_peer_sends_hides_or_forges_anything(form: Format) -> None:
    stream = io.StringIO()
    configure_logging(form=form, stream=stream)
    log = structlog.get_logger("xds.any")
    log.warning(HOSTILE, text=HOSTILE, bare="\u202e", items=[HOSTILE, {HOSTILE: HOSTILE}])
    logging.getLogger("another.library").warning("bad request from %s", HOSTILE, extra={"peer": HOSTILE})
    for event in stream.getvalue().splitlines():
        assert not HIDDEN.search(event)
    assert len(stream.getvalue().splitlines()) == 2
    if form == "json":
        told = [json.loads(line) for line in stream.getvalue().splitlines()]
        assert (told[0]["event"], told[0]["text"], told[1]["peer"]) == (HOSTILE, HOSTILE, HOSTILE)


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_trace_whose_error_has_text_of_a_peer_forges_no_line_and_is_cut_at_its_beginning(form: Format) -> None:
    stream = io.StringIO()
    configure_logging(form=form, stream=stream)
    for text in (HOSTILE, "x" * 1_000_000 + "the end"):
        try:
            raise RuntimeError(text)
        except RuntimeError as error:
            structlog.get_logger("xds.any").error("a bug", exc_info=error)
    written = stream.getvalue()
    assert not HIDDEN.search(written.replace("\n", ""))
    assert len(written) < 30_000
    assert "the end" in written
    if form == "console":
        assert [line for line in written.splitlines() if line.startswith("2026")] == []
        assert "    RuntimeError: " in written


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_line_is_bounded_whatever_is_logged(form: Format) -> None:
    stream = io.StringIO()
    configure_logging(form=form, stream=stream)
    log = structlog.get_logger("xds.any")
    log.warning(
        "x" * 1_000_000, text="y" * 1_000_000, items=["z" * 1_000] * 1_000, more={str(n): n for n in range(10_000)}
    )
    log.warning("many", **{f"field{number}": "y" * 4_000 for number in range(100)})
    log.warning("\x1b" * 1_000_000, text="\x1b" * 1_000_000)
    first, second, third = stream.getvalue().splitlines()
    assert "(1,000,000 characters)" in first
    assert len(first) < 20_000
    assert len(second) < 30_000
    assert len(third) < 60_000  # six characters each
    if form == "json":
        assert json.loads(first)["text"].endswith("y… (1,000,000 characters)")
