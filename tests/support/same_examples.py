"""Hypothesis, with examples that do not depend on the rest of the source.

It draws some values from the constants of all modules of the project that are loaded, so that a change anywhere changes
the examples of every test.
"""

from hypothesis.internal.conjecture import providers


def without_constants_of_the_source() -> None:
    """From now on, draw no value in this process from the constants of modules."""
    assert callable(providers._get_local_constants), "Hypothesis has changed: see where it collects constants"
    providers._get_local_constants = providers.Constants
