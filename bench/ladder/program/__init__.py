"""The server of the ladder, as it is on its last rung; loaded by ``bench.ladder.folding``."""
