"""The rungs of the ladder and the other ways of doing them: names that ``folding.py`` makes constants of.

In the source they all read as they do on the last rung, so type checkers and readers see the whole program.
"""

SLICES = True
CREDIT = True
IDLE = True
PAUSE = True
ALLOWANCES = True
COUNTERS = True
CLOCK = True
NODE = True
ACK_WITH_NAMES = True
ORDER = True
TTL = True
NACK = True
SERIALS = True
LIFETIME = True
WORKERS = True
EVENTS = True
TLS = True

# Other ways of doing what a rung does, dearer ones, to show by how much.
SLICES_OF_8 = False
SLICES_OF_128 = False
CREDIT_TWICE = False
IDLE_BY_TICK = False
PAUSE_BY_FLAG = False
COUNT_EACH = False
CLOCK_EACH = False
NODE_PARSED = False
SERIAL_EACH = False
LIFETIME_COUNTED = False
EVENT_EACH = False
TLS_BY_LOOP = False
TLS_ONE_BUFFER = False
