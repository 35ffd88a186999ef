"""``xds settings``: list the settings from their declarations, without reading values."""

from typing import Any

from xds.cli.output import examples, say
from xds.cli.talk import Output, print_as

EPILOG = examples("xds settings", "xds settings | grep -A1 timeout", "xds settings -o json | jq '.settings[].key'")


def settings(output: Output = "table") -> None:
    """List every setting of `xds serve`: its key in the file, its environment variable, its default and meaning."""
    from pydantic import BaseModel

    from xds.cli.settings import meanings_of, setting_paths, variable_of
    from xds.config import Settings

    defaults = Settings().model_dump(mode="json")
    found: list[dict[str, Any]] = []
    for path in setting_paths():
        model: type[BaseModel] = Settings
        default = defaults
        for name in path[:-1]:
            model, default = type(getattr(model(), name)), default[name]
        value = default[path[-1]]
        meaning = meanings_of(model)[path[-1]]
        found.append({"key": ".".join(path), "variable": variable_of(path), "default": value, "meaning": meaning})
    if output != "table":
        print_as(output, {"settings": found})
        return
    for each in found:
        value = each["default"]
        shown = "none" if value is None else str(value).lower() if isinstance(value, bool) else value
        say(f"{each['key']}  {each['variable']}  (default {shown})", f"    {each['meaning']}")
