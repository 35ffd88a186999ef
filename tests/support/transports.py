"""The transport of test suites that run on one at a time: ``XDS_TEST_TRANSPORT``, by default the product's default.

``tests/clients`` and ``tests/transport`` run on both; suites with real Envoys are too slow for that.
"""

import os
from typing import Any

from xds.config import TransportSettings
from xds.embed import Settings

KINDS = ("native", "grpcio")
VARIABLE = "XDS_TEST_TRANSPORT"
KIND = os.environ.get(VARIABLE, TransportSettings().kind)

assert KIND in KINDS, f"{VARIABLE}={KIND!r} is none of {', '.join(KINDS)}"


def settings_on(kind: str = KIND, **given: Any) -> Settings:
    """Return settings of a control plane in this process: any free port, no admin port, and this transport."""
    transport = {"kind": kind} | given.pop("transport", {})
    return Settings.model_validate({"listen": "127.0.0.1:0", "admin": "off", "transport": transport} | given)
