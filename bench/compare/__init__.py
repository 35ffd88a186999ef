"""The comparison of ``make bench``: ours and the peers, one after the other, driven by the same fleet.

``python -m bench.compare --help`` runs it. It starts servers and fleets as processes and reads what they print; it
knows nothing of how any of them works.
"""
