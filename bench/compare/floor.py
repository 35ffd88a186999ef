"""The floor under each figure, as a row's result has it: one ``send()`` and one ``recv()`` on the same machine."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from bench import loopback
from bench.compare.results import RowResult

_NAME = "one send() and one recv() on loopback before the row, of {} connections in turn"
_FOUND_NAME = re.compile(re.escape(_NAME).replace(r"\{\}", r"(thousands of|[\d,]+)"))
_FOUND_VALUE = re.compile(r"([\d.]+) \+ ([\d.]+) µs")


@dataclass(frozen=True, slots=True)
class Floor:
    """What a ``send()`` and what a ``recv()`` took, in µs, over so many connections in turn."""

    connections: int
    send_us: float
    receive_us: float

    @classmethod
    def measured(cls, streams: int) -> "Floor":
        """Measure it over as many connections as there are streams, or as many as ``loopback`` takes."""
        connections = min(streams, loopback.PAIRS_MAX)
        return cls(connections, *loopback.measure(connections))

    @classmethod
    def of(cls, result: RowResult) -> "Floor | None":
        """Return the floor in a row's parameters, None if the row lacks it."""
        for name, value in result.parameters.items():
            found = _FOUND_NAME.fullmatch(name)
            said = _FOUND_VALUE.fullmatch(str(value))
            if found and said:
                # Rows of before this was said had as many connections as loopback takes.
                count = loopback.PAIRS_MAX if found[1] == "thousands of" else int(found[1].replace(",", ""))
                return cls(count, float(said[1]), float(said[2]))
        return None

    @property
    def us(self) -> float:
        """Return what both took."""
        return self.send_us + self.receive_us

    def parameter(self) -> Mapping[str, str]:
        """Return it as a row's result has it."""
        return {_NAME.format(f"{self.connections:,}"): f"{self.send_us:.2f} + {self.receive_us:.2f} µs"}
