"""The settings as a worker process reads them: plain values, which its parent has checked.

pydantic, and the classes of settings that stand on it, would take half of a worker's start and 15 MB of its memory.
"""

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from xds.config import Settings


class PlainSettings:
    """The fields and properties of one model, as attributes. It has none of its methods."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name}: settings are immutable")


def plain(settings: "Settings") -> "Settings":
    """Return the settings without pydantic. To type checkers they are the same: workers call none of their methods."""
    return cast("Settings", _plain(settings))


def _plain(value: Any) -> Any:
    if type(value) is tuple:
        return tuple(map(_plain, value))
    fields = getattr(type(value), "model_fields", None)
    if fields is None:
        return value
    properties = [name for name, each in vars(type(value)).items() if isinstance(each, property)]
    return PlainSettings({name: _plain(getattr(value, name)) for name in (*fields, *properties)})
