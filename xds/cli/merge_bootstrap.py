"""Merges files with parts of an Envoy bootstrap into a bootstrap, as Envoy merges its ``--config-yaml``."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from xds.cli.output import EXIT_USAGE, count, fail
from xds.model.problem import ChangesetRejectedError, Problem
from xds.schema.convert import ConversionError, message_from_json
from xds.schema.paths import dotted, locate
from xds.schema.pool import load_schema
from xds.sources.json_reader import read_json
from xds.sources.yaml_reader import Document, YamlLimits, read_yaml

BOOTSTRAP = "envoy.config.bootstrap.v3.Bootstrap"
Json = dict[str, Any]


def merged(bootstrap: Json, files: Iterable[Path]) -> Json:
    """Return a bootstrap with the content of files merged in, in order; exit with every problem of the files.

    Messages are merged field by field, lists are appended, and a single value of a file replaces that of before.
    """
    descriptor = load_schema().descriptor(BOOTSTRAP)
    problems: list[Problem] = []
    for file in files:
        try:
            bootstrap = _merge(descriptor, bootstrap, _read(file))
        except ChangesetRejectedError as error:
            problems += error.problems
        except OSError as error:
            fail(f"--merge: {file}: {error.strerror}", code=EXIT_USAGE)
    problems += _repeated(bootstrap)
    if problems:
        fail(f"--merge: {count(len(problems), 'problem')}", code=EXIT_USAGE, problems=problems)
    return bootstrap


def _read(file: Path) -> Json:
    """Read a file, and check it against the schema. Raises ChangesetRejectedError and OSError."""
    text, limits = file.read_bytes(), YamlLimits()
    is_json = file.suffix.lower() == ".json"
    document: Document = (read_json if is_json else read_yaml)(text, file=str(file), limits=limits)
    value = document.value
    if not isinstance(value, dict):
        hint = "write a part of a bootstrap, such as static_resources: …"
        raise ChangesetRejectedError([Problem(what="is not a mapping", hint=hint, file=str(file), line=1)])
    try:
        message_from_json(load_schema(), value, full_name=BOOTSTRAP, allow_unknown_types=True)
    except ConversionError as error:
        problems = [
            Problem(
                what=each.what,
                hint=each.hint,
                file=str(file),
                line=document.line_of(locate(value, each.path)),
                field=dotted(each.path),
            )
            for each in error.findings
        ]
        raise ChangesetRejectedError(problems) from None
    return value


def _merge(descriptor: Any, base: Json, part: Json) -> Json:
    """Merge two messages of a type in JSON form; ``part`` may have camelCase keys. Typed configs are replaced whole."""
    result = dict(base)
    names = {name: field for field in descriptor.fields for name in (field.name, field.json_name)}
    for key, value in part.items():
        field = names.get(key)
        if field is None:  # "@type"
            result[key] = value
            continue
        if field.containing_oneof is not None:
            for other in field.containing_oneof.fields:
                if other.name != field.name:
                    result.pop(other.name, None)
        before = result.get(field.name)
        nested = field.message_type
        if isinstance(value, list) and isinstance(before, list):
            result[field.name] = [*before, *value]
        elif isinstance(value, dict) and isinstance(before, dict) and nested is not None:
            is_plain = nested.GetOptions().map_entry or nested.full_name.startswith("google.protobuf.")
            result[field.name] = {**before, **value} if is_plain else _merge(nested, before, value)
        else:
            result[field.name] = value
    return result


def _repeated(bootstrap: Json) -> Iterable[Problem]:
    """Return a problem for each static cluster and listener whose name is taken, which Envoy would refuse."""
    static = bootstrap.get("static_resources") or {}
    for kind in ("clusters", "listeners"):
        names = [str(each.get("name")) for each in static.get(kind) or () if isinstance(each, dict) and "name" in each]
        for name in sorted({name for name in names if names.count(name) > 1}):
            what, hint = "is there twice after the merge", "rename or remove it in the file"
            yield Problem(what=what, hint=hint, resource=f"{kind}/{name}", field=f"static_resources.{kind}")
