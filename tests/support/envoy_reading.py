"""What a real Envoy reads from a text: its value, or its words.

Each text is the one resource of a file that Envoy subscribes to (``path_config_source``): a route configuration, whose
``typed_filter_metadata`` can hold any message. ``config_dump`` shows the value that Envoy has made. Many files are read
by one Envoy, in waves.
"""

import json
import os
import re
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from support.envoy import EnvoyProcess

HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
SLOTS = 24
"""Files that are read at once. Envoy takes an inotify instance for each, of which Linux gives a user 128."""
UNPRINTABLE = "unprintable"
_FAILURE = re.compile(r"config update failure: in [^ ]*/(?P<name>slot-[0-9]+)[.](?:yaml|json), (?P<words>.*)")
ROUTE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What Envoy made of one text: its ``value`` as JSON, or its ``words`` of why it refuses it."""

    value: Any = None
    words: str = ""

    @property
    def is_accepted(self) -> bool:
        """Return whether Envoy took the text."""
        return not self.words


class ReadingEnvoy:
    """A real Envoy that reads files. ``suffix`` is yaml or json."""

    def __init__(self, suffix: str) -> None:
        self._suffix = suffix
        self._process = EnvoyProcess("", name="reading-envoy", extra=("--reject-unknown-dynamic-fields",))

    async def __aenter__(self) -> Self:
        for slot in range(SLOTS):
            self._write(slot, json.dumps({"resources": [{"@type": ROUTE, "name": _name(slot)}]}).encode())
        config = self._process.directory / "bootstrap.yaml"
        config.write_text(json.dumps(self._bootstrap()))
        await self._process.__aenter__()
        await self._process.wait_live()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._process.__aexit__(kind, error, traceback)

    async def judge(self, texts: list[str | bytes]) -> list[Judgement]:
        """Return what Envoy makes of each text, a whole file. ``NAME`` in it stands for the route's name."""
        found: list[Judgement] = []
        for start in range(0, len(texts), SLOTS):
            found += await self._judge_wave(texts[start : start + SLOTS])
        return found

    async def _judge_wave(self, texts: list[str | bytes]) -> list[Judgement]:
        before = await self._outcomes()
        logged = len(self._process.log())
        for slot, text in enumerate(texts):
            data = text.encode() if isinstance(text, str) else text
            self._write(slot, data.replace(b"NAME", _name(slot).encode()))
        names = [_name(slot) for slot in range(len(texts))]
        after = await self._process.wait_for(
            self._outcomes,
            lambda now: all(sum(now[name]) > sum(before[name]) for name in names),
            otherwise="Envoy has not read every file",
            timeout_s=30.0,
            poll_s=0.01,
        )
        refused = [name for name in names if after[name][1] > before[name][1]]
        words = {match["name"]: match["words"].strip() for match in _FAILURE.finditer(self._process.log()[logged:])}
        shown = await self._shown([name for name in names if name not in refused])
        return [
            Judgement(words=words.get(name, "refused")) if name in refused else Judgement(value=shown[name])
            for name in names
        ]

    async def _outcomes(self) -> dict[str, tuple[int, int]]:
        """Return how many updates of each route Envoy has taken, and how many it has refused."""
        stats = await self._process.stats(r"[.]rds[.].*[.](update_success|update_rejected|update_failure)$")
        return {
            name: (
                stats[f"http.reading.rds.{name}.update_success"],
                stats[f"http.reading.rds.{name}.update_rejected"] + stats[f"http.reading.rds.{name}.update_failure"],
            )
            for name in map(_name, range(SLOTS))
        }

    async def _shown(self, names: list[str]) -> dict[str, Any]:
        """Return the routes as Envoy shows them, ``UNPRINTABLE`` for one that protobuf can't print."""
        answer = await self._process.admin("/config_dump?resource=dynamic_route_configs")
        if answer.text.startswith("{"):
            rows = _parsed(answer.text).get("configs", ())
            return {row["route_config"]["name"]: row["route_config"] for row in rows}
        found: dict[str, Any] = {}
        for name in names:
            one = await self._process.admin(f"/config_dump?resource=dynamic_route_configs&name_regex=^{name}$")
            found[name] = _parsed(one.text)["configs"][0]["route_config"] if one.text.startswith("{") else UNPRINTABLE
        return found

    def _write(self, slot: int, data: bytes) -> None:
        path = self._path(slot)
        new = path + ".new"
        with open(new, "wb") as file:
            file.write(data)
        os.rename(new, path)  # Envoy watches for files that are moved into place

    def _path(self, slot: int) -> str:
        return str(self._process.directory / f"{_name(slot)}.{self._suffix}")

    def _bootstrap(self) -> dict[str, Any]:
        chains = [
            {
                "filter_chain_match": {"destination_port": slot + 1},
                "filters": [{"name": "hcm", "typed_config": self._manager(slot)}],
            }
            for slot in range(SLOTS)
        ]
        listener = {
            "name": "reading",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
            "bind_to_port": False,
            "filter_chains": chains,
        }
        return {
            "node": {"id": "reading", "cluster": "reading"},
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
            "static_resources": {"listeners": [listener]},
        }

    def _manager(self, slot: int) -> dict[str, Any]:
        source = {"path_config_source": {"path": self._path(slot)}, "resource_api_version": "V3"}
        return {
            "@type": HCM,
            "stat_prefix": "reading",
            "rds": {"route_config_name": _name(slot), "config_source": source},
            "http_filters": [{"name": "router", "typed_config": {"@type": ROUTER}}],
        }


def _name(slot: int) -> str:
    return f"slot-{slot}"


def _parsed(text: str) -> dict[str, Any]:
    """Parse what Envoy has printed. Python's parser reads -0 as the integer 0."""
    found: dict[str, Any] = json.loads(text, parse_int=lambda digits: -0.0 if digits == "-0" else int(digits))
    return found
