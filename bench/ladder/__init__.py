"""What each thing that a control plane must do costs, rung by rung: ``python -m bench.ladder``.

``program`` is one small xDS server (delta ADS over HTTP/2 on uvloop). Its first rung is the idea of
``program/values.py`` alone; each further rung really does one thing more, in the cheapest way that was found. What a
rung does not do is not in the code that runs: see ``folding.py``. It is no product: one stream a connection, no SotW,
no per-type services.
"""
