"""Settings of HTTP/2 that are sent beside those that Envoy sends by itself."""

from typing import Any

from xds.schema.decode import Findings
from xds.schema.paths import Trail


def check_http2(holder: Any, trail: Trail, found: Findings) -> None:
    """Check the settings in the ``http2_protocol_options`` of a message: those that Envoy sends by itself, or twice."""
    if not holder.HasField("http2_protocol_options"):
        return
    options = holder.http2_protocol_options
    values: dict[int, int] = {}
    for index, setting in enumerate(options.custom_settings_parameters):
        key, value, what = setting.identifier.value, setting.value.value, ""
        if key == _PUSH and value == 1:
            what = "enables server push, which Envoy does not have"
        elif key == _CONNECT:
            what = "is allow_connect, which has a field of its own"
        elif key in _NAMED and options.HasField(_NAMED[key]):
            what = f"is {_NAMED[key]}, which is set too"
        elif values.setdefault(key, value) != value:
            what = f"has another value than a setting {key} before it"
        if what:
            found.add(((trail, "custom_settings_parameters"), index), what, "leave it out")


_PUSH, _CONNECT = 2, 8
_NAMED = {1: "hpack_table_size", 3: "max_concurrent_streams", 4: "initial_stream_window_size"}
"""Identifiers of HTTP/2 settings, and the fields that set them."""
