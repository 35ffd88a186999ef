"""Two revisions of this product, measured in turns: ``python -m bench.in_turns --before REV``.

Absolute figures vary by a factor of two from hour to hour on a shared machine, and a change of 3% can't be seen in
them. So each round starts both revisions, one right after the other and in the other order every second round, has the
same fleet drive them, and what counts are the ratios of the rounds. A third participant, ``before`` once more, shows
what the machine alone does to a ratio.
"""
