"""The native transport's end of one stream: a fault of ours ends that stream, and is no other's."""

from types import SimpleNamespace
from typing import Any

from xds.model.identity import ANONYMOUS
from xds.protocol.policy import METHODS
from xds.transport.calls import XdsCall
from xds.transport.http2.limits import Http2Limits


def call_of(dispatcher: Any) -> tuple[XdsCall, list[Any]]:
    ends: list[Any] = []
    dispatcher.open = lambda *_, **__: object()
    dispatcher.report_fault = ends.append
    connection: Any = SimpleNamespace(
        services=SimpleNamespace(dispatcher=dispatcher),
        name="c",
        peer=ANONYMOUS,
        limits=Http2Limits(),
        peer_stream_window=1,
        paused=False,
    )

    class Ended(XdsCall):
        def end(self, status: Any, message: str) -> None:
            ends.append((status.name, message))

    return Ended(connection, 1, METHODS[0]), ends


def fail(*_: object) -> None:
    raise RuntimeError("a bug")


def test_a_fault_while_a_cohort_is_served_ends_the_stream_alone():
    call, ends = call_of(SimpleNamespace())
    hub: Any = SimpleNamespace(poll_cohort=fail)
    assert call.send_cohort(hub)
    assert [str(end) for end in ends] == ["a bug", "('INTERNAL', 'internal error')"]


def test_a_fault_while_a_request_is_taken_ends_the_stream_alone():
    call, ends = call_of(SimpleNamespace(now=lambda: 0.0, receive=fail, hub=SimpleNamespace(take_ack=lambda *_: False)))
    call.on_message(b"")
    assert [str(end) for end in ends] == ["a bug", "('INTERNAL', 'internal error')"]
    call, ends = call_of(SimpleNamespace(now=lambda: 0.0, hub=SimpleNamespace(take_ack=fail)))
    call.on_message(b"")
    assert [str(end) for end in ends] == ["a bug", "('INTERNAL', 'internal error')"]
