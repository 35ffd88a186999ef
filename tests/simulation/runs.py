"""Runs a plan, in the world that it needs."""

import gc

from simulation import content
from simulation.engines import DIRECT
from simulation.plan import Plan
from simulation.store_world import StoreWorld
from simulation.world import Failure, World


def run(drawn: Plan, *, transcript: bool = False) -> World:
    """Run a plan. Raises Failure.

    The garbage collection is off meanwhile: it is sooner done at the end, and would end generators at other times when
    a transcript is kept.
    """
    content.forget()
    lines: list[str] | None = [] if transcript else None
    gc.disable()
    try:
        world = World(drawn, lines) if drawn.store == DIRECT else StoreWorld(drawn, lines)
        try:
            with world.surroundings():
                world.run()
                world.check_memory()
        except Exception as error:
            raise Failure(f"{type(error).__name__}: {error}", world) from error
        return world
    finally:
        gc.enable()
