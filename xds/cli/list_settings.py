"""``xds settings``: list the settings from their declarations, without reading values."""

from xds.cli.output import examples, say

EPILOG = examples("xds settings", "xds settings | grep -A1 timeout")


def settings() -> None:
    """List every setting of `xds serve`: its key in the file, its environment variable, its default and meaning."""
    from pydantic import BaseModel

    from xds.cli.settings import setting_paths, variable_of
    from xds.config import Settings

    defaults = Settings().model_dump(mode="json")
    for path in setting_paths():
        model: type[BaseModel] = Settings
        default = defaults
        for name in path[:-1]:
            model, default = type(getattr(model(), name)), default[name]
        value = default[path[-1]]
        shown = "none" if value is None else str(value).lower() if isinstance(value, bool) else value
        say(f"{'.'.join(path)}  {variable_of(path)}  (default {shown})")
        say(f"    {model.model_fields[path[-1]].description}")
