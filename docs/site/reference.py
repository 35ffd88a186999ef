"""Write docs/reference from the code: settings, commands, both APIs, metrics, errors, log events.

``make docs-reference`` runs it; a test runs it too, and compares. Every page is written by one function, which reads
what the program itself declares.
"""

import argparse
import ast
import asyncio
import contextlib
import io
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import httpx
import typer
from prometheus_client.parser import text_string_to_metric_families

from xds.access.errors import ForbiddenError, NoAuditError, UnauthenticatedError
from xds.api.admission import Admission
from xds.api.answers import EXPECTED, BodyTooLargeError, error_answer
from xds.api.bodies import UnknownMediaTypeError
from xds.api.intake import BusyError, TooSlowError
from xds.api.metrics import metrics_renderer
from xds.api.operations import CantMoveError, Operations, UnknownNodeError, UnknownResourceError
from xds.api.rest import rest_api
from xds.api.rest_page import in_words, operations
from xds.api.rest_schema import ERRORS
from xds.cli.main import command_line
from xds.cli.output import EXIT_CODES
from xds.cli.settings import meanings_of, setting_paths, variable_of
from xds.cli.talk import CLIENT_EXIT_CODES, talk
from xds.client.errors import ClientError, TokenError, error_of
from xds.config import Settings
from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.model.problem import ChangesetRejectedError, Problem
from xds.process.background import Background
from xds.protocol.errors import Status, StreamRefusedError
from xds.protocol.policy import METHODS
from xds.publishing.changes import KeptElsewhereError
from xds.publishing.edits import UnknownGroupError
from xds.publishing.publisher import Publisher
from xds.reporting.directory_status import DirectoryStatus
from xds.schema.pool import load_schema
from xds.serving.streams import Streams
from xds.sources.inline import read_resources
from xds.store import errors as store
from xds.store.keys import KeysError
from xds.store.memory import MemoryStore
from xds.store.opening import StoreUrlError
from xds.store.sealing import MissingKeyError
from xds.telemetry.server_measures import ServerMeasures
from xds.transport.certificate_expiry import Expiry

ROOT = Path(__file__).parents[2]
WRITTEN_BY = "<!-- Written by `make docs-reference` from the code; do not edit. -->\n\n"
Table = Iterable[Sequence[str]]


def main() -> None:
    """Write all pages."""
    parser = argparse.ArgumentParser(description="Write the reference pages.")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "reference", help="the directory to write to")
    directory = parser.parse_args().output
    directory.mkdir(parents=True, exist_ok=True)
    for name, write in PAGES.items():
        text = WRITTEN_BY + "\n".join(write()).strip() + "\n"
        (directory / name).write_text(re.sub(r"\n{3,}", "\n\n", text))


def prose(text: str) -> str:
    """Return text as Markdown shows it: what is special outside of code is escaped, and lines are joined."""
    parts = " ".join(text.replace("``", "`").split()).split("`")
    outside = (re.sub(r"([*|])", r"\\\1", part).replace("<", "&lt;") for part in parts[::2])
    return "`".join(
        piece for pair in zip(outside, [*parts[1::2], None], strict=True) for piece in pair if piece is not None
    )


def code(text: Any) -> str:
    """Return text as code, also in a cell of a table."""
    return f"<code>{str(text).replace('|', '&#124;')}</code>" if "|" in str(text) else f"`{text}`"


def table(columns: Sequence[str], rows: Table) -> Iterator[str]:
    """Iterate over the lines of a table; of one without rows there are none."""
    rows = list(rows)
    if not rows:
        return
    yield ""
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


# --- Settings --------------------------------------------------------------------------------------------------------


def settings() -> Iterator[str]:
    """Write every setting, by section."""
    yield "# Settings"
    yield ""
    yield (
        "Every setting can be given as a key of the settings file, as an environment variable, or with "
        "`--set KEY=VALUE`; [Operating](../operating.md#settings) says which one wins. `xds settings` prints this list."
    )
    schema, defaults = Settings.model_json_schema(), Settings().model_dump(mode="json")
    sections: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for path in setting_paths():
        sections.setdefault(path[:-1], []).append(path)
    for section, paths in sections.items():
        model: Any = Settings
        declared, default = schema, defaults
        for name in section:
            model, default = type(getattr(model(), name)), default[name]
            declared = schema["$defs"][model.__name__]
        yield from ("", f"## {'.'.join(section)}" if section else "## General", "")
        if section:
            yield prose(model.__doc__ or "")
        rows, meanings = [], meanings_of(model)
        for path in paths:
            name = path[-1]
            field = declared["properties"][name]
            meaning = prose(meanings[name])
            value = default[name]
            shown = "–" if value in (None, "") else code(str(value).lower() if isinstance(value, bool) else value)
            rows.append((f"`{'.'.join(path)}`<br>`{variable_of(path)}`", shown, _values(field), meaning))
        yield from table(("setting, variable", "default", "values", "meaning"), rows)


def _values(field: dict[str, Any]) -> str:
    """Return what a JSON schema allows."""
    choices = [each for each in field.get("anyOf", [field]) if each.get("type") != "null"]
    (one,) = choices
    if "enum" in one:
        return ", ".join(map(code, one["enum"]))
    if one.get("type") == "boolean":
        return "`true`, `false`"
    if one.get("type") not in ("integer", "number"):
        return {"path": "a path", "file-path": "a path"}.get(one.get("format", ""), "text")
    low, high = one.get("minimum"), one.get("maximum")
    kind = "a whole number" if one["type"] == "integer" else "a number"
    if low is None:
        return kind
    return f"{kind}, {low:,.10g} to {high:,.10g}" if high is not None else f"{kind}, {low:,.10g} or more"


# --- Commands --------------------------------------------------------------------------------------------------------


def commands() -> Iterator[str]:
    """Write every command with its options."""
    yield "# Commands"
    yield ""
    yield "What `xds --help` and `xds COMMAND --help` say. `xds --install-completion` sets up the shell's completion."
    yield ""
    yield from _command(typer.main.get_command(command_line()), ("xds",))


def _command(command: Any, path: tuple[str, ...]) -> Iterator[str]:
    own = [each for each in command.params if not getattr(each, "hidden", False)]
    subcommands = getattr(command, "commands", {})
    if len(path) > 1:
        yield from ("", f"{'#' * len(path)} {' '.join(path)}", "")
        arguments = [_argument(each) for each in own if _is_argument(each)]
        yield from ("```text", " ".join([*path, *(["[OPTIONS]"] if len(arguments) < len(own) else []), *arguments]))
        yield from ("```", "")
        for paragraph in (command.help or "").split("\n\n"):
            yield from (prose(paragraph.replace("\\[", "[")), "")
        yield from table(("argument or option", "meaning"), map(_parameter, own))
        yield from _epilog(command.epilog or "")
    for name, each in subcommands.items():
        yield from _command(each, (*path, name))


def _is_argument(parameter: Any) -> bool:
    return not parameter.opts[0].startswith("-")


def _argument(parameter: Any) -> str:
    name = (parameter.metavar or parameter.name.upper()).strip("[]")
    return name if parameter.required else f"[{name}]"


def _parameter(parameter: Any) -> tuple[str, str]:
    choices = typing.get_args(parameter.type_descriptor.annotation) if _is_literal(parameter) else ()
    metavar = parameter.metavar or ("|".join(choices) if choices else "")
    if _is_argument(parameter):
        name = code(_argument(parameter))
    else:
        is_flag = getattr(parameter, "is_flag", False)
        names = ", ".join(f"`{each}`" for each in (*parameter.opts, *parameter.secondary_opts))
        name = names if is_flag or not metavar else f"{names} {code(metavar)}"
    meaning = [prose((getattr(parameter, "help", "") or "").replace("\\[", "["))]
    if getattr(parameter, "multiple", False):
        meaning.append("Can be repeated.")
    if parameter.required and not _is_argument(parameter):
        meaning.append("Required.")
    if parameter.default not in (None, False, "", ()) and not callable(parameter.default):
        meaning.append(f"Default: {code(parameter.default)}.")
    variables = getattr(parameter, "envvar", None) or []
    variables = [variables] if isinstance(variables, str) else variables
    if variables:
        meaning.append(f"Variable: {', '.join(map(code, variables))}.")
    return name, " ".join(filter(None, meaning))


def _is_literal(parameter: Any) -> bool:
    return typing.get_origin(parameter.type_descriptor.annotation) is typing.Literal


def _epilog(text: str) -> Iterator[str]:
    paragraphs = [each.replace("\\[", "[") for each in text.split("\n\n") if each]
    if not paragraphs:
        return
    exit_codes = [each for each in paragraphs if each.startswith("Exit codes:")]
    shown = [each for each in paragraphs if each not in exit_codes and not each.startswith("[bold]")]
    yield from ("Examples:", "", "```console", *shown, "```", "")
    yield from map(prose, exit_codes)
    yield ""


# --- REST ------------------------------------------------------------------------------------------------------------


def rest() -> Iterator[str]:
    """Write the REST API, from its own OpenAPI document."""
    document = asyncio.run(_openapi())
    yield "# REST API"
    yield ""
    yield (
        "Served under `/v1` on the admin port (`admin`, 127.0.0.1:19000), which also has the OpenAPI document "
        "(`/v1/openapi.json`) and the same as a page (`/v1/docs`). [Pushing configuration](../pushing.md) says how it "
        "is used: bodies and media types, secrets, ids, expected revisions. The statuses are under "
        "[Errors](errors.md#the-push-api)."
    )
    yield from ("", "| operation | call |", "|---|---|")
    for path, method, operation in operations(document):
        yield f"| {prose(operation['description'])} | [`{method} {path}`](#{_anchor(method, path)}) |"
    for path, method, operation in operations(document):
        yield from ("", f"## `{method} {path}`", "", prose(operation["description"]))
        rows = [
            (
                f"`{each['name']}`",
                each["in"],
                in_words(each["schema"], document, code),
                prose(each.get("description", "")),
            )
            for each in operation.get("parameters", ())
        ]
        yield from table(("parameter", "in", "values", "meaning"), rows)
        if "requestBody" in operation:
            contents = operation["requestBody"]["content"]
            (schema,) = {str(each["schema"]): each["schema"] for each in contents.values()}.values()
            yield f"Body ({', '.join(f'`{each}`' for each in contents)}): {prose(schema.get('description', ''))}"
            required = schema.get("required", ())
            rows = [
                (
                    f"`{name}`" + (" (required)" if name in required else ""),
                    in_words(each, document, code),
                    prose(each.get("description", "")),
                )
                for name, each in schema.get("properties", {}).items()
            ]
            yield from table(("key", "values", "meaning"), rows)


def _anchor(method: str, path: str) -> str:
    """Return the anchor that both GitHub and the site make of an operation's heading."""
    return re.sub(r"[^\w\s-]", "", f"{method} {path}".lower()).replace(" ", "-")


async def _openapi() -> dict[str, Any]:
    catalog = Catalog()
    publisher = Publisher(MemoryStore(), catalog, lambda _changeset, _revision: None)

    async def nodes(_query: Any) -> Any:
        raise AssertionError("nothing but the document is asked for")

    async def rebalance(_share: float, _over_s: float) -> int:
        raise AssertionError("nothing but the document is asked for")

    async def debts() -> Any:
        raise AssertionError("nothing but the document is asked for")

    async def inspect(_query: Any) -> Any:
        raise AssertionError("nothing but the document is asked for")

    async def holders(_query: Any) -> Any:
        raise AssertionError("nothing but the document is asked for")

    async def status() -> Any:
        raise AssertionError("nothing but the document is asked for")

    made = Operations(
        publisher,
        catalog,
        nodes=nodes,
        debts=debts,
        status=status,
        inspect=inspect,
        holders=holders,
        rebalance=rebalance,
    )
    api = rest_api(made, Admission(), body_bytes_max=2**26)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=api), base_url="http://127.0.0.1") as client:
        document: dict[str, Any] = (await client.get("/v1/openapi.json")).raise_for_status().json()
    return document


# --- gRPC ------------------------------------------------------------------------------------------------------------


def grpc_api() -> Iterator[str]:
    """Write both gRPC APIs: xDS from the table of methods, the push API from its .proto file."""
    yield "# gRPC API"
    yield from ("", "## xDS", "")
    yield (
        "Served on the xDS port (`listen`, 127.0.0.1:18000), with the messages of Envoy's API. Types that have no "
        "service of their own are served by the aggregated one."
    )
    by_service: dict[str, list[str]] = {}
    for method in METHODS:
        by_service.setdefault(method.service, []).append(f"`{method.name}`")
    yield from table(("service", "methods"), ((f"`{name}`", ", ".join(each)) for name, each in by_service.items()))
    yield (
        "The port also serves `grpc.health.v1.Health` (`Check`, `Watch`; each service of the table has a status) and, "
        "if switched on, `envoy.service.status.v3.ClientStatusDiscoveryService` (`csds`) and reflection (`reflection`)."
    )
    text = (ROOT / "protos" / "xds_control_plane" / "snapshots.proto").read_text()
    (package,) = re.findall(r"^package (\S+);", text, re.MULTILINE)
    yield from ("", "## The push API", "")
    yield (
        f"Service `{package}.Snapshots`, on its own port (`api.listen`, 127.0.0.1:18001). The file is "
        "[protos/xds_control_plane/snapshots.proto](../../protos/xds_control_plane/snapshots.proto); `xds.client` is "
        "its client for Python. The statuses "
        "are under [Errors](errors.md#the-push-api)."
    )
    yield ""
    head = text[: text.index("\nsyntax")]
    for paragraph in re.split(r"^//\n", head, flags=re.MULTILINE):
        yield from (prose(" ".join(line.removeprefix("//") for line in paragraph.splitlines())), "")
    rows = []
    (service,) = re.findall(r"^service Snapshots \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    for comment, name, takes, returns in re.findall(r"((?: *//.*\n)*) *rpc (\w+)\((.*?)\) returns \((.*?)\);", service):
        rows.append((f"`{name}`", f"`{takes}`", f"`{returns}`", prose(comment.replace("//", " "))))
    yield from table(("method", "takes", "returns", "what it does"), rows)
    for comment, name, body in re.findall(r"((?:^//.*\n)*)^message (\w+) \{([^}]*)\}", text, re.MULTILINE):
        yield from ("", f"### {name}", "", prose(comment.replace("//", " ")))
        fields = re.findall(r"^ *((?:\w+ )?[\w.<>, ]+?) (\w+) = (\d+);(?: *// (.*))?$", body, re.MULTILINE)
        assert len(fields) == body.count(";") - sum(each[3].count(";") for each in fields), f"{name}: not all fields"
        rows = [(f"`{field}`", f"`{kind}`", number, prose(meaning)) for kind, field, number, meaning in fields]
        yield from table(("field", "type", "number", "meaning"), rows) if rows else ("It has no fields.", "")


# --- Metrics ---------------------------------------------------------------------------------------------------------


def metrics() -> Iterator[str]:
    """Write every metric, as a server with one resource has it."""
    yield "# Metrics"
    yield ""
    yield (
        "`/metrics` on the admin port (127.0.0.1:19000), in Prometheus' text format. They sum up all worker processes; "
        "each replica has its own. `group` is a group's name for the first 100 groups and `other` for the rest, `type` "
        "the short name of a type or `other`; `process` is `parent` or `worker N`. Histograms are in seconds. What a "
        "worker that is killed has counted in its last second is lost; nothing else is. "
        "[Prometheus](../how-to/prometheus.md) has a scrape configuration and alerts for them."
    )
    families = list(text_string_to_metric_families(asyncio.run(_rendered()).decode()))
    rows = []
    for family in sorted(families, key=lambda each: (not each.name.startswith("xds_"), each.name)):
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        name = family.name + ("_total" if family.type == "counter" else "")
        shown = f"`{name}`" + (f" by {', '.join(f'`{each}`' for each in labels)}" if labels else "")
        rows.append((shown, family.type, prose(family.documentation)))
    yield from table(("metric", "type", "meaning"), [each for each in rows if each[0].startswith("`xds_")])
    yield "Of the process that has the admin port, by Prometheus' client for Python:"
    yield from table(("metric", "type", "meaning"), [each for each in rows if not each[0].startswith("`xds_")])


async def _rendered() -> bytes:
    catalog, background = Catalog(), Background()
    cluster = {"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "web"}
    catalog.apply(Changeset(upserts={"default": read_resources([cluster], group="default")}))
    background.deaths["a task"] += 0
    streams = Streams(Settings(), load_schema(), catalog, tls=None)
    directory = DirectoryStatus(Path("resources"))
    streams.tls_failures["expired"] += 0
    counters = streams.counters
    counters.tokens_refused["expired"] += 0
    counters.keys_failed["issuer"] += 0
    streams.hub.measures.times_of("default")
    measured = ServerMeasures()
    measured.calls["Apply", "admin", "ok"] += 0
    measured.credentials_refused["no credentials"] += 0
    expiry = Expiry("cert.pem", "CN=xds", 0.0)
    render = metrics_renderer(
        streams,
        catalog,
        rejected=lambda: 0,
        limit_hits=lambda: streams.limit_hits,
        background=background,
        directory=directory,
        expiries=lambda: [expiry],
        measured=measured,
    )
    return await render()


# --- Errors ----------------------------------------------------------------------------------------------------------

EXAMPLES: tuple[tuple[Exception, str], ...] = (
    (ChangesetRejectedError([Problem(what="wrong")]), "the content is wrong; `problems` has everything that is"),
    (store.ConflictError(1, 2), "the server is at another revision than expected; 412 where `If-Match` said so"),
    (store.IdReusedError("id", 1), "the id is that of another change"),
    (KeptElsewhereError("kept"), "a directory keeps what was to be changed"),
    (store.CompactedError(1, 2), "the revision is no longer kept"),
    (store.NotYetError(2, 1), "the revision was not made yet"),
    (UnknownGroupError("g"), "there is no such group"),
    (UnknownResourceError("r"), "there is no such resource"),
    (UnknownNodeError("n"), "no such node is connected"),
    (store.TooLargeError("large"), "the change is larger than the store takes in one piece"),
    (BodyTooLargeError("large"), "the body is larger than `api.body_bytes_max`"),
    (TooSlowError("slow"), "the body did not arrive within `api.body_timeout_s`"),
    (UnknownMediaTypeError("image/png"), "bodies are JSON, YAML or protobuf"),
    (BusyError("busy"), "other bodies take all the room (`api.intake_bytes_max`)"),
    (store.UnavailableError("away"), "the store can't be reached, or can't be written; nothing was changed"),
    (store.UnreadableError("damaged"), "something in the store can't be read; nothing was changed"),
    (MissingKeyError("id", (), "it"), "it is encrypted with a key that the server does not have"),
    (store.EpochChangedError(), "the store was replaced by another one: read everything anew"),
    (store.NoBackupError(), "the store has no file to copy"),
    (CantMoveError(), "the grpcio transport can't move connections"),
    (
        UnauthenticatedError("who", reason="no credentials"),
        "credentials are missing or wrong",
    ),
    (ForbiddenError("right"), "the caller lacks a right, which the error names, for a group or for all groups"),
    (NoAuditError("none"), "the server has no audit log in a file"),
    (store.NotAStoreError("no store"), "what is in the store's place is no store; nothing was changed"),
    (StreamRefusedError(Status.UNAVAILABLE, "away"), "a worker process did not answer, and may have the node"),
    (store.OutcomeUnknownError("id", "cause"), "it is not known whether the change was made: try again with its id"),
)
"""One error of each kind that ``error_answer`` knows, with what it means."""


def errors() -> Iterator[str]:
    """Write what calls, streams and commands end with."""
    known = {type(error) for error, _ in EXAMPLES} | {StoreUrlError, store.InUseError, KeysError}  # they end a start
    missing = {each for kind in EXPECTED for each in _kinds(kind)} - known
    assert not missing, f"errors without an example: {missing}"
    yield "# Errors"
    yield from ("", "## The push API", "")
    yield "The same error over REST, over gRPC, as an exception of `xds.client`, and as the exit code of a command:"
    rows: dict[tuple[str, ...], list[str]] = {}
    for error, meaning in EXAMPLES:
        answer = error_answer(error)
        raised = _raised(answer.grpc, "xds-outcome: none" if answer.grpc == "UNAVAILABLE" else "")
        rows.setdefault((str(answer.http), answer.grpc, type(raised).__name__, str(_exit_code(raised))), []).append(
            meaning
        )
    yield from table(
        ("HTTP", "gRPC", "Python", "exit code", "what it says"),
        (
            (each[0], f"`{each[1]}`", f"`{each[2]}`", each[3], "<br>".join(meanings))
            for each, meanings in sorted(rows.items())
        ),
    )
    yield (
        "A connection that is lost while a change waits is `UNAVAILABLE` without `xds-outcome: none` in its trailing "
        f"metadata: `{type(_raised('UNAVAILABLE', '')).__name__}`, exit code {_exit_code(_raised('UNAVAILABLE', ''))}, "
        "as the change may have been made. A token that may not be sent is "
        f"`TokenError`, exit code {_exit_code(TokenError('in clear'))}."
    )
    yield from ("", "Every status of the REST API:")
    yield from table(("HTTP", "what it says"), ((str(key), prose(each["description"])) for key, each in ERRORS.items()))
    yield 'The body of an error is `{"error": TEXT}`, with `problems` where there are several.'
    yield from ("", "## Exit codes", "")
    for text, of in (
        (EXIT_CODES, "`xds serve`, `validate`, `bootstrap`, `store` and `fleet`"),
        (CLIENT_EXIT_CODES, "the commands over the push API"),
    ):
        yield from (f"Of {of}:", "")
        for each in text.removeprefix("Exit codes: ").rstrip(".").split("; "):
            number, _, meaning = each.partition(" ")
            yield f"- {number}: {prose(meaning)}"
        yield ""
    yield "`xds envoy` ends with Envoy's own exit code. A command that Ctrl-C interrupts ends with 130."
    yield from ("", "## xDS streams", "")
    yield (
        "A call on the xDS port ends with one of these statuses and messages (`…` stands for names and figures). "
        "Where a request or a node is refused, the log has it as `refused`."
    )
    yield from table(("status", "message"), sorted({(f"`{status}`", prose(text)) for status, text in _stream_ends()}))


def _kinds(kind: type[Exception]) -> Iterator[type[Exception]]:
    """Iterate over an error's subclasses that have none themselves, or over the error itself."""
    below = kind.__subclasses__()
    if not below:
        yield kind
    for each in below:
        yield from _kinds(each)


def _raised(status: str, metadata: str) -> ClientError:
    """Return what ``xds.client`` raises where a change ends with a status."""
    pairs = [tuple(metadata.split(": "))] if metadata else []
    trailing = grpc.aio.Metadata(*pairs)
    failed = grpc.aio.AioRpcError(grpc.StatusCode[status], grpc.aio.Metadata(), trailing, details="lost")
    return error_of(failed, "" if status in ("UNAUTHENTICATED",) else "id")


def _exit_code(error: ClientError) -> int:
    async def work(_client: Any) -> None:
        raise error

    with contextlib.redirect_stderr(io.StringIO()):
        try:
            talk("127.0.0.1:1", None, None, work)
        except typer.Exit as ended:
            return int(ended.exit_code)
    raise AssertionError("it raised, so it does not return")


def _stream_ends() -> Iterator[tuple[str, str]]:
    """Iterate over status and message of every place in the code that ends a stream."""
    for path in sorted([*(ROOT / "xds" / "protocol").rglob("*.py"), *(ROOT / "xds" / "transport").rglob("*.py")]):
        for call in _calls(path):
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            if name in ("StreamRefusedError", "end", "cut", "_refuse") and len(call.args) == 2:
                status = getattr(call.args[0], "attr", getattr(call.args[0], "id", ""))
                text = _text(call.args[1])
                if status in Status.__members__ and status != "OK" and text:
                    yield status, text


def _calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))


def _text(node: ast.expr) -> str:
    """Return a text of the code, with an ellipsis for what is put into it; "" if it is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(each) if isinstance(each, ast.Constant) else "…" for each in node.values)
    return ""


# --- Log events ------------------------------------------------------------------------------------------------------


def logs() -> Iterator[str]:
    """Write every event that the server logs."""
    yield "# Log events"
    yield ""
    yield (
        "Every line that the server can log, with its level and its fields. [Operating](../operating.md#logs) says "
        "what to do about those that matter. A line with `exc_info` has a traceback; one with `count` stands for "
        "that many."
    )
    found: dict[tuple[str, str], set[str]] = {}
    for path in sorted((ROOT / "xds").rglob("*.py")):
        shared = _named_dicts(path)
        for call in _calls(path):
            if isinstance(call.func, ast.Attribute) and call.args and (event := _text(call.args[0])):
                logger, level = getattr(call.func.value, "id", ""), call.func.attr
                if logger in ("log", "peers_log") and level in LEVELS:
                    event = re.sub(r"%0?\d*[sdo]", "…", event)
                    merged = _merged_fields(call) if logger == "peers_log" else set()
                    found.setdefault((event, level), set()).update(_fields(call, shared) | merged)
    rows = sorted(found.items(), key=lambda each: (LEVELS.index(each[0][1]), each[0][0]))
    yield from table(
        ("event", "level", "fields"),
        ((prose(event), level, ", ".join(f"`{each}`" for each in sorted(fields))) for (event, level), fields in rows),
    )


LEVELS = ("error", "warning", "info")


def _fields(call: ast.Call, shared: dict[str, set[str]]) -> set[str]:
    """Return the fields of a log line: keywords, and the keys of dicts that are given as a whole."""
    fields: set[str] = set()
    for each in call.keywords:
        if each.arg == "extra" or each.arg is None:
            fields |= _keys(each.value) if isinstance(each.value, ast.Dict) else shared[getattr(each.value, "id", "")]
        elif each.arg not in ("kind", "source", "examples"):
            fields.add(each.arg)
    return fields


def _merged_fields(call: ast.Call) -> set[str]:
    """Return the fields that only a merged line has."""
    given = {each.arg: each.value for each in call.keywords}
    examples = given.get("examples")
    more = {"of_more_kinds"} if "source" in given else set()
    return {"count"} | more | (_keys(examples) if isinstance(examples, ast.Dict) else set())


def _named_dicts(path: Path) -> dict[str, set[str]]:
    """Return the keys of all dicts in a file that have a name."""
    assigned = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assign))
    dicts = (node for node in assigned if isinstance(node.value, ast.Dict) and isinstance(node.targets[0], ast.Name))
    return {node.targets[0].id: _keys(node.value) for node in dicts}


def _keys(node: ast.Dict) -> set[str]:
    return {_text(key) for key in node.keys if key is not None}


PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "settings.md": settings,
    "cli.md": commands,
    "rest.md": rest,
    "grpc.md": grpc_api,
    "metrics.md": metrics,
    "errors.md": errors,
    "logs.md": logs,
}

if __name__ == "__main__":
    main()
