"""Loads ``Settings`` from options, environment and file, naming the source of each bad value.

The first source that has a setting wins: option, environment (``XDS_LOG__LEVEL``), file (``log: {level: …}``), default.
"""

import ast
import inspect
import os
import re
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource

from xds.config import ENV_PREFIX, SettingPath, Settings, SettingsTogetherError
from xds.model.closest import closest

ENV_CONFIG = "XDS_CONFIG"

_KUBERNETES = re.compile(r"XDS_(\w+_)?(SERVICE_HOST|SERVICE_PORT\w*|PORT|PORT_\d+_(TCP|UDP|SCTP)\w*)")
"""Variables that Kubernetes sets in every container of a namespace with a Service named ``xds`` or ``xds-…``."""


@dataclass(frozen=True, slots=True)
class Given:
    """A value from the command line: ``path`` is ``("tls", "cert")``, ``option`` is ``--tls-cert``."""

    path: SettingPath
    value: Any
    option: str


class SettingsRejectedError(Exception):
    """Settings are invalid. ``problems`` has a line for each: the value's source, what is wrong, what would be right.

    Expected error: show the lines and exit with 2.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def load_settings(given: Sequence[Given] = (), *, config_file: Path | None = None) -> Settings:
    """Load the settings from options, environment, file and defaults, in this order of precedence.

    Without ``config_file`` the file is ``XDS_CONFIG``, if set. Raises SettingsRejectedError with all problems.
    """
    if config_file is None and os.environ.get(ENV_CONFIG):
        config_file = Path(os.environ[ENV_CONFIG])
    in_file = {} if config_file is None else _read_file(config_file)
    in_environment = EnvSettingsSource(Settings)()
    in_options: dict[str, Any] = {}
    for option in given:
        _merge(in_options, _nested(option.path, option.value))
    merged: dict[str, Any] = {}
    for source in (in_file, in_environment, in_options):
        _merge(merged, source)
    problems = list(_mistyped_variables())
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        origins = _Origins(given, in_environment, in_file, config_file)
        problems += [f"{origins.name(path)}: {what}" for path, what in _explain(error)]
    if problems:
        raise SettingsRejectedError(problems)
    return settings


def setting_paths(model: type[BaseModel] = Settings, prefix: SettingPath = ()) -> Iterator[SettingPath]:
    """Yield the paths of all settings, in the order of their declaration."""
    for name, field in model.model_fields.items():
        section = _section_of(field.annotation)
        if section is None:
            yield (*prefix, name)
        else:
            yield from setting_paths(section, (*prefix, name))


@cache
def meanings_of(section: type[BaseModel]) -> dict[str, str]:
    """Return the docstrings of a section's settings, by name.

    They are read from the source when asked for. Pydantic would read them at every import, which took a seventh of
    the start of a server and a fifth of that of a worker.
    """
    (declared,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(declared, ast.ClassDef)
    found = {}
    for field, below in pairwise(declared.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = inspect.cleandoc(text)
    return found


def variable_of(path: SettingPath) -> str:
    """Return the environment variable of a setting."""
    return ENV_PREFIX + "__".join(path).upper()


@dataclass(frozen=True, slots=True)
class _Origins:
    """The sources, to name the one that a value came from."""

    given: Sequence[Given]
    environment: Mapping[str, Any]
    file: Mapping[str, Any]
    config_file: Path | None

    def name(self, path: SettingPath) -> str:
        for option in reversed(self.given):
            if option.path[: len(path)] == path:
                return option.option
        if _holds(self.environment, path):
            return variable_of(path)
        if _holds(self.file, path):
            return f"{self.config_file}: {'.'.join(path)}"
        return f"{'.'.join(path)} ({variable_of(path)})"


def _read_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        match path.suffix:
            case ".toml":
                content: Any = tomllib.loads(text)
            case ".yaml" | ".yml" | ".json":
                content = yaml.safe_load(text)
            case _:
                raise SettingsRejectedError([f"{path}: a settings file is called *.yaml, *.yml, *.json or *.toml"])
    except OSError as error:
        raise SettingsRejectedError([f"{path}: the settings file can't be read: {error.strerror}"]) from None
    except (yaml.YAMLError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsRejectedError([f"{path}{_place(error)}"]) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsRejectedError(
            [f"{path}: holds a {type(content).__name__}, not settings; write `listen: …` and so on"]
        )
    return _with_text_keys(content)


def _place(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f":{error.problem_mark.line + 1}: is not YAML: {error.problem}"
    return ": " + " ".join(str(error).split())


def _with_text_keys(content: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): _with_text_keys(value) if isinstance(value, dict) else value for key, value in content.items()}


def _nested(path: SettingPath, value: Any) -> dict[str, Any]:
    for key in reversed(path):
        value = {key: value}
    nested: dict[str, Any] = value
    return nested


def _merge(target: dict[str, Any], source: Mapping[str, Any]) -> None:
    for key, value in source.items():
        if isinstance(value, Mapping):
            below = target.get(key)
            target[key] = dict(below) if isinstance(below, Mapping) else {}
            _merge(target[key], value)
        else:
            target[key] = value


def _holds(values: Mapping[str, Any], path: SettingPath) -> bool:
    value: Any = values
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return False
        value = value[key]
    return True


PUSH_PREFIX = "XDS_PUSH_"


def _mistyped_variables() -> Iterator[str]:
    """Report variables that look like misspelt settings. Others that begin with ``XDS_`` may be other programs'."""
    known = [ENV_CONFIG, *map(variable_of, setting_paths())]
    sections = {name.partition("__")[0] for name in known if "__" in name}
    for name in sorted(os.environ):
        if not name.startswith(ENV_PREFIX) or name in known or _KUBERNETES.fullmatch(name):
            continue
        if name.startswith(PUSH_PREFIX):
            continue  # of the commands that ask a server
        if name.partition("__")[0] in sections:
            continue  # read as part of that section, and rejected there as unknown
        close = closest(name, known, likeness_min=0.8)
        if close:
            yield f"{name}: is not a setting; did you mean {close[0]}?"


def _explain(error: ValidationError) -> Iterator[tuple[SettingPath, str]]:
    for detail in error.errors(include_url=False):
        cause = detail.get("ctx", {}).get("error")
        if isinstance(cause, SettingsTogetherError):
            yield from cause.problems
        else:
            path = tuple(str(part) for part in detail["loc"])
            yield path, _what(detail, path)


def _what(detail: ErrorDetails, path: SettingPath) -> str:
    match detail["type"]:
        case "value_error":
            return str(detail["ctx"]["error"])
        case "extra_forbidden":
            return _unknown(path)
        case "model_type":
            members = [".".join(known) for known in setting_paths() if known[:1] == path[:1]]
            return f"is a group of settings; set one of them: {', '.join(members)}"
        case _:
            message = detail["msg"].replace("Input should", "should")
            return f"{message[:1].lower()}{message[1:]}, not {detail['input']!r}"


def _unknown(path: SettingPath) -> str:
    siblings = {known[: len(path)] for known in setting_paths() if known[: len(path) - 1] == path[:-1]}
    names = sorted(".".join(sibling) for sibling in siblings)
    close = closest(".".join(path), names)
    return f"is not a setting; did you mean {close[0]}?" if close else f"is not a setting; there are {', '.join(names)}"


def _section_of(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
