"""The process of ``support.native_server``: a control plane on the native transport that reads JSON commands."""

import asyncio
import dataclasses
import json
import sys
from typing import Any

import structlog
import uvloop

from xds import app
from xds.embed import ControlPlane, Settings
from xds.serving.streams import Streams

LINE_BYTES_MAX = 64 * 1024 * 1024
COUNTED = ("streams_opened", "streams_closed", "requests")


async def main() -> None:
    faults: list[str] = []

    def note(_: object, level: str, event: dict[str, Any]) -> dict[str, Any]:
        if level == "error":
            faults.append(f"{event.get('event')}: {event.get('error')}")
        return event

    structlog.configure(
        processors=[note, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: faults.append(f"event loop: {context!r}"))
    lines = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    setup = json.loads(await lines.readline())

    class Tuned(Streams):
        def _native_options(self) -> Any:
            made = super()._native_options()
            limits = dataclasses.replace(made.limits, **setup["limits"])
            return dataclasses.replace(made, limits=limits, **setup["options"])

    given = {"listen": "127.0.0.1:0", "admin": "off", "transport": {"kind": "native"}}
    app.Streams = Tuned  # type: ignore[misc]
    control_plane = ControlPlane(Settings.model_validate(given | setup["settings"]))
    control_plane.replace({"default": setup["resources"]})
    async with control_plane:
        assert control_plane.address is not None
        print(json.dumps({"port": control_plane.address.port}), flush=True)
        while line := await lines.readline():
            print(json.dumps(await _answer(control_plane, json.loads(line), faults)), flush=True)


async def _answer(control_plane: ControlPlane, said: dict[str, Any], faults: list[str]) -> Any:
    if said["command"] == "apply":
        control_plane.apply(upsert=said["upsert"], remove=[tuple(one) for one in said["remove"]])
    elif said["command"] == "drain":
        await control_plane.drain()
    elif said["command"] == "stop":
        await control_plane.stop()
    else:
        hub = control_plane._app.hub
        counted = {name: getattr(hub.counters, name) for name in COUNTED}
        return {"streams": len(hub.streams), "faults": faults, **counted}
    return {}


if __name__ == "__main__":
    uvloop.run(main())
