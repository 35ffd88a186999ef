"""What ``xds serve`` sets up in its process before it serves."""

import sys

import pytest

from xds import server
from xds.config import Settings


def test_threads_of_a_server_keep_its_event_loop_waiting_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("forbid_core_dumps", "return_large_blocks", "hold_collection"):  # they are for a whole process
        monkeypatch.setattr(server, name, lambda: None)
    before = sys.getswitchinterval()
    try:
        server._prepare_process(Settings())
        assert sys.getswitchinterval() == pytest.approx(server.SWITCH_S)
        assert before >= 10 * server.SWITCH_S
    finally:
        sys.setswitchinterval(before)
