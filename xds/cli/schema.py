"""``xds schema``: what the schema has, and how two schemas differ."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from xds.cli.output import EXIT_FAILED, count, examples, fail, print_json, print_table, say

if TYPE_CHECKING:
    from xds.schema.union import SchemaSource

Format = Literal["text", "json"]
SCHEMA_HELP = "An Envoy binary, or a FileDescriptorSet of your own filters. Repeatable; else XDS_SCHEMAS."
SchemaOption = Annotated[list[Path] | None, typer.Option("--schema", metavar="PATH", help=SCHEMA_HELP)]
FormatOption = Annotated[Format, typer.Option("--format", help="How to print it.")]

app = typer.Typer(
    help="The schema: Envoy's API as descriptors, by which resources are read and checked.",
    no_args_is_help=True,
    epilog=examples(
        "xds schema show envoy.config.route.v3.RouteMatch",
        "xds schema diff /usr/bin/envoy-1.38 /usr/bin/envoy",
        "xds schema export --schema /usr/bin/envoy envoy.binpb",
    ),
)


@app.command()
def show(
    name: Annotated[str | None, typer.Argument(metavar="TYPE", help="A message, to print its fields.")] = None,
    schema: SchemaOption = None,
    form: FormatOption = "text",
) -> None:
    """Print where the schema is from and how much it has, or the fields of one message.

    Without --schema: the packaged schema, which is that of the Envoy that this release was tested with.
    """
    whole = _whole(schema)
    if name is None:
        _show_summary(whole, form)
    else:
        _show_message(whole, name, form)


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="An Envoy binary or a FileDescriptorSet.")],
    after: Annotated[
        Path | None, typer.Argument(metavar="AFTER", help="Another one. Default: the packaged schema.")
    ] = None,
    form: FormatOption = "text",
) -> None:
    """Print which messages, fields and enum values one schema has and the other lacks.

    Each line begins with + (only AFTER has it), - (only BEFORE has it) or ~ (its type or number changed). Exit code 1
    if the two differ.
    """
    from xds.schema.union import Difference
    from xds.schema_files import packaged_source

    old, new = _read(before), packaged_source() if after is None else _read(after)
    found = Difference(old, new)
    if form == "json":
        print_json({"added": found.added, "removed": found.removed, "changed": found.changed})
    else:
        say(*found.lines)
        totals = f"{len(found.added):,} added, {len(found.removed):,} removed, {len(found.changed):,} changed"
        say(f"{_titled(old)} → {_titled(new)}: {totals}")
    raise typer.Exit(EXIT_FAILED if found.added or found.removed or found.changed else 0)


@app.command()
def export(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.")],
    schema: SchemaOption = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
) -> None:
    """Write the schema as a FileDescriptorSet, which --schema reads, as do buf, grpcurl and protoc.

    It is much smaller than an Envoy binary, so it can go where the binary is not.
    """
    from xds.schema.union import encode_set

    whole = _whole(schema)
    try:
        with target.open("wb" if force else "xb") as file:
            file.write(encode_set(whole.files, whole.envoy))
    except FileExistsError:
        fail(f"{target} exists already", "give --force to overwrite it", code=EXIT_FAILED)
    except OSError as error:
        fail(f"{target} can't be written: {error.strerror}", code=EXIT_FAILED)
    say(f"{target}: {_titled(whole)}, {count(len(whole.files), 'file')}")


def schema_paths(given: list[Path] | None) -> tuple[Path, ...]:
    """Return the paths of ``--schema``, or those of ``XDS_SCHEMAS`` if there are none."""
    import os

    from xds.setting_types import paths_of

    return tuple(given) if given else paths_of(os.environ.get("XDS_SCHEMAS", ""))


def choose_schemas(given: list[Path] | None) -> None:
    """Make this command read resources by the schemas of ``--schema`` or ``XDS_SCHEMAS``; ends it if that fails."""
    import os

    from xds.schema.pool import load_schema
    from xds.schema.union import SchemaError
    from xds.schema_files import choose

    unknown_types = os.environ.get("XDS_UNKNOWN_TYPES", "refuse")
    choose(schema_paths(given), unknown_types=unknown_types)
    try:
        load_schema()
    except SchemaError as error:
        fail(str(error), code=EXIT_FAILED)


def _whole(given: list[Path] | None) -> "SchemaSource":
    from xds.schema.union import SchemaError
    from xds.schema_files import whole_schema

    try:
        return whole_schema(schema_paths(given))
    except SchemaError as error:
        fail(str(error), code=EXIT_FAILED)


def _read(path: Path) -> "SchemaSource":
    from xds.schema.union import SchemaError
    from xds.schema_files import read

    try:
        return read(path)
    except SchemaError as error:
        fail(str(error), code=EXIT_FAILED)


def _titled(source: "SchemaSource") -> str:
    return f"{source.name} (Envoy {source.envoy})" if source.envoy else source.name


def _show_summary(whole: "SchemaSource", form: Format) -> None:
    from xds.schema.pool import Schema
    from xds.schema.union import encode_set

    messages = len(Schema(encode_set(whole.files)).message_names())
    if form == "json":
        summary = {"source": whole.name, "envoy": whole.envoy, "files": len(whole.files), "messages": messages}
        print_json(summary)
        return
    say(_titled(whole), f"  {count(len(whole.files), 'file')}, {count(messages, 'message')}")
    say("", "xds schema show TYPE prints the fields of a message")


def _show_message(whole: "SchemaSource", name: str, form: Format) -> None:
    from xds.model.closest import closest
    from xds.model.types import SHORT_NAMES, TYPE_PREFIX
    from xds.schema.notices import field_rows
    from xds.schema.pool import Schema
    from xds.schema.union import encode_set

    schema = Schema(encode_set(whole.files))
    full_name = SHORT_NAMES.get(name, name).removeprefix(TYPE_PREFIX)
    if not schema.has(full_name):
        close = schema.close_names(full_name) or tuple(closest(full_name, schema.message_names(), count=3))
        hint = [f"did you mean {' or '.join(close)}?"] if close else []
        fail(f"{_titled(whole)} has no message {full_name}", *hint, code=EXIT_FAILED)
    rows: list[dict[str, Any]] = field_rows(schema, full_name)
    if form == "json":
        print_json({"message": full_name, "fields": rows})
        return
    say(full_name)
    print_table(["field", "type", "number", "notes"], [[str(row[key]) for key in _COLUMNS] for row in rows])


_COLUMNS = ("field", "type", "number", "notes")
