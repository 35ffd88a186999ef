"""Where the packaged Envoy API is from: written by the build hook beside the descriptor set."""

import json
from functools import cache
from importlib import resources
from typing import Any


@cache
def _origin() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(resources.files("xds._generated").joinpath("envoy.json").read_bytes())
    return found


def built_with() -> str:
    """Return the version of the Envoy whose descriptors are packaged, such as ``1.40.0``."""
    return str(_origin()["envoy"])


def files_not_in_envoy() -> frozenset[str]:
    """Return the names of the packaged files that this Envoy does not have; they are from ``xds-protos``."""
    return frozenset(_origin()["files only in xds-protos"])
