"""What this process uses of the machine."""

import time

from xds.process.loop_lag import LoopLag
from xds.process.memory import resident_bytes
from xds.telemetry.process_figures import ProcessFigures


def process_figures(name: str, lag: LoopLag) -> ProcessFigures:
    """Return the figures of this process, without those of streams."""
    return ProcessFigures(name=name, cpu_s=time.process_time(), resident_bytes=resident_bytes(), lag=lag.times)
