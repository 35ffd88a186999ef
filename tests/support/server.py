"""The product's own server, ``xds serve``, as a child process, with its admin port and its log."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from support.fetch import Answer, fetch
from support.metrics import metrics_of
from support.ports import free_port
from support.processes import Child
from support.transports import KIND

XDS = Path(sys.executable).parent / "xds"
POLL_S = 0.01


class XdsServer(Child):
    """``xds serve DIRECTORY`` on free ports, with its own store, which survives restarts.

    ``settings`` are those of ``--set`` (``{"protocol.ordering": False}``).

    The transport is that of ``XDS_TEST_TRANSPORT``, unless the settings name one. It has one worker, on any number of
    cores, unless the options or settings name a number: each takes a second of a core to start.

    Use it as ``async with XdsServer(directory) as server: await server.wait_ready()``. ``start`` after ``stop`` or
    ``kill`` serves again, on the same ports.
    """

    def __init__(
        self,
        directory: Path | None,
        *options: str,
        settings: Mapping[str, Any] | None = None,
        name: str = "xds",
    ) -> None:
        super().__init__([], name=name)
        self.port, self.admin_port, self.api_port = free_port(), free_port(), free_port()
        self.argv = [str(XDS), "serve", *([] if directory is None else [str(directory)]), "--log-format", "json"]
        self.argv += ["--api", f"127.0.0.1:{self.api_port}"]
        self.argv += ["--listen", f"127.0.0.1:{self.port}", "--admin", f"127.0.0.1:{self.admin_port}", *options]
        given = {"transport.kind": KIND} | dict(settings or {})
        if given["transport.kind"] == "native" and not {"--workers", "--config"} & set(options):
            given = {"transport.workers": 1} | given
        for key, value in given.items():
            self.argv += ["--set", f"{key}={value}"]
        self.env = {key: value for key, value in self.env.items() if not key.startswith(("XDS_", "COVERAGE_"))}
        self._log_start = 0

    def start(self) -> Self:
        self._log_start = len(self.log())
        return super().start()

    def events(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return the events logged since the last start, or those of one name; other lines are left out."""
        lines = self.log()[self._log_start :].splitlines(keepends=True)
        found = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]
        return [one for one in found if event in (None, one["event"])]

    async def wait_event(self, event: str, count: int = 1, timeout_s: float = 20.0) -> list[dict[str, Any]]:
        """Wait until an event was logged ``count`` times since the last start, and return these."""
        return await self.wait_for(
            lambda: self.events(event),
            lambda found: len(found) >= count,
            otherwise=f"did not log {event!r} {count} times",
            timeout_s=timeout_s,
        )

    async def wait_ready(self, timeout_s: float = 20.0) -> None:
        """Wait until the started server is ready."""
        await self.wait_event("serving", timeout_s=timeout_s)

    async def admin(self, path: str) -> Answer:
        """Make a request to the admin port."""
        return await fetch(self.admin_port, path, timeout_s=5.0)

    async def metrics(self) -> dict[str, float]:
        """Return the server's own metrics, each summed over its labels: ``xds_acks_total`` → 3.0."""
        return metrics_of((await self.admin("/metrics")).text)

    async def wait_metrics(self, done: Callable[[dict[str, float]], Any], timeout_s: float = 10.0) -> dict[str, float]:
        """Wait until ``done(metrics)`` is true and return the metrics."""
        return await self.wait_for(
            self.metrics, done, otherwise="its metrics are not as wanted", timeout_s=timeout_s, poll_s=POLL_S
        )

    @staticmethod
    def is_quiet(metrics: Mapping[str, float]) -> bool:
        """Return whether every response was answered by its client."""
        answered = metrics["xds_acks_total"] + metrics["xds_nacks_total"] + metrics["xds_heartbeats_total"]
        return metrics["xds_responses_total"] <= answered
