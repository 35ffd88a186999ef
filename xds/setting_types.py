"""Types of settings that several sections use."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer


def _not_empty(value: Any) -> Any:
    if value == "":
        raise ValueError("is empty; give a path, or leave it out")
    return value


def paths_of(value: Any) -> Any:
    """Return the paths in a text like ``PATH:PATH``; other values as they are."""
    return tuple(Path(each) for each in value.split(os.pathsep) if each) if isinstance(value, str) else value


FilePath = Annotated[Path, BeforeValidator(_not_empty)]
FilePaths = Annotated[
    tuple[Path, ...],
    BeforeValidator(paths_of),
    PlainSerializer(lambda paths: os.pathsep.join(map(str, paths)), return_type=str, when_used="json"),
]


def why_unreadable(path: Path) -> str:
    """Return why a file can't be read, "" if it can be."""
    try:
        with path.open("rb"):
            return ""
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"can't be read: {error.strerror}"
    except ValueError as error:
        return f"is not a path: {error}"
