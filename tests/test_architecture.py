"""The structure of ``xds/``, read from its source: imports between modules, sizes, names.

Nothing of the product is imported here. ``ARROWS`` is the picture of the whole; to change it is a change of design.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "xds"
FUNCTION_LINES_MAX = 60

ARROWS: dict[str, set[str]] = {
    "model": set(),
    "protocol": {"model", "_generated", "telemetry.histogram"},
    "schema": {"model", "_generated"},
    "sources": {"model", "schema"},
    "store": {"_generated", "process.background", "process.private_files"},
    "publishing": {"process.background", "model", "schema", "store"},
    "client": {"model", "schema", "sources.inline", "address", "_generated"},
    "identity": {"model"},
    "transport": {
        *("model", "protocol", "address", "limits", "_generated"),
        *("process.background", "process.loop_share", "process.signals"),
        "identity.admission",
    },
    "registry": {"model", "protocol.convergence", "process.background", "process.private_files"},
    "fleet": {"model", "_generated", "address", "process.background", "process.private_files", "transport.http2"},
    "process": {"telemetry.histogram"},
    "telemetry": {"process.background", "protocol", "publishing.journey"},
    "monitoring": set(),
    "validation": {"model", "schema", "process.private_files"},
    "routing": {"model", "schema"},
    "reporting": {"model", "protocol", "store.entries", "transport.tls_failures", "process.background"},
    "access": {
        *("identity", "model", "process.background", "process.private_files", "sources.yaml_reader"),
        *("transport.client_certificates", "transport.revocation_watch", "transport.tls"),
    },
    "access_settings": {"setting_types"},
    "api": {
        "access",
        *("model", "protocol", "registry", "routing", "schema", "address", "publishing", "sources", "store"),
        "_generated",
        *("process.background", "process.loop_share"),
        *("reporting.merged_log", "reporting.escaping", "reporting.directory_status"),
        "limits",
        *("transport.certificates", "transport.grpcio_clients", "transport.grpcio_tls"),
        *("transport.tls", "transport.tls_failures", "transport.certificate_expiry", "version"),
        "telemetry",
    },
    "page": {
        *("access", "api", "model", "protocol", "publishing", "reporting.escaping", "schema", "sources.groups_file"),
        "store.entries",
    },
    "address": set(),
    "connection_settings": set(),
    "overload_settings": set(),
    "fleet_settings": set(),
    "replica_settings": {"address", "setting_types"},
    "replicated": {
        *("address", "api.fleet", "app", "protocol", "replicas"),
        *("store.etcd_client", "store.opening"),
    },
    "replicas": {
        *("address", "model", "protocol", "_generated", "process.background", "registry", "replica_settings"),
        *("schema.show", "store.errors", "store.etcd_client", "version"),
    },
    "limits": set(),
    "config": {
        *("access_settings", "address", "connection_settings", "fleet_settings", "overload_settings"),
        *("replica_settings", "setting_types"),
        *("store.keys", "store.opening"),
        *("tls_settings", "transport.tls"),
    },
    "setting_types": set(),
    "identity_settings": {"address", "identity", "model.identity", "setting_types"},
    "tls_settings": {
        "address",
        "identity_settings",
        "model.identity",
        "setting_types",
        "transport.client_certificates",
        "transport.revocations",
        "transport.tls",
    },
    "bootstrap": {"address", "model.groups"},
    "serving": {
        *("model", "protocol", "registry", "schema", "transport", "api", "identity", "telemetry"),
        *("address", "config", "limits", "overload_settings", "process", "reporting", "version"),
    },
    "app": {
        *("process.background", "model", "protocol", "registry", "schema", "serving", "transport", "api"),
        *("address", "config", "process.descriptors", "process.memory", "reporting.events", "schema_files"),
        *("reporting.attributions", "reporting.nacks"),
        *("reporting.directory_status", "store.opening", "limits", "telemetry", "version"),
    },
    "schema_files": {"schema", "process.private_files"},
    "server": {
        *("access", "address", "app", "api", "page", "publishing", "sources", "store", "model", "config"),
        *("process.core_dumps", "process.memory", "process.systemd", "reporting.events", "reporting.directory_status"),
        *("replicated", "telemetry", "validation", "version"),
    },
    "cli": {
        "access",
        "routing",
        "server",
        "client",
        "store",
        "bootstrap",
        "process.descriptors",
        "fleet",
        "model",
        "sources",
        "transport.pool",
        "address",
        "config",
        "reporting.logs",
        "process.private_files",
        "process.signals",
        "reporting.escaping",
        "schema",
        "schema_files",
        "setting_types",
        "telemetry.histogram",
        "monitoring",
        "version",
        *("telemetry.errors", "validation"),
    },
    "version": set(),
    "embed": {"app", "model", "schema", "sources.inline", "address", "config", "transport.pool", "version"},
    "": set(),
}
"""Each part of ``xds`` to the parts, or single modules, that it may import; "" is ``xds/__init__.py``."""

PURE = ("model", "protocol", "schema", "routing")
IMPURE = {
    *("asyncio", "concurrent", "multiprocessing", "queue", "sched", "select", "selectors", "signal", "subprocess"),
    *("threading", "socket", "socketserver", "ssl", "http", "urllib.request", "time", "datetime", "random", "secrets"),
    *("uuid", "os", "io", "shutil", "tempfile", "pathlib", "logging", "ctypes", "mmap", "fcntl", "importlib"),
}
"""I/O, clocks, randomness and concurrency, which pure parts must not import."""
PACKAGED_FILES = ("schema", "importlib.resources")
"""The only pure part that reads a file, the packaged descriptors, and the module that it imports for that."""

THIRD_PARTY: dict[str, set[str]] = {
    "cryptography": {"identity", "schema", "store", "transport", "validation"},
    "fastapi": {"api"},
    "google": {"protocol", "schema", "transport", "api", "fleet", "client", "replicas", "store", "routing"},
    "grpc": {"transport", "api", "client", "replicas", "store"},
    "hpack": {"transport", "fleet"},
    "jinja2": {"page"},
    "jwt": {"identity"},
    "markupsafe": {"page"},
    "grpc_health": {"transport"},
    "grpc_reflection": {"transport"},
    "immutables": {"model", "protocol", "fleet"},
    "matplotlib": {"fleet"},
    "opentelemetry": {"telemetry"},
    "prometheus_client": {"api", "cli"},
    "re2": {"schema", "routing"},
    "pydantic": {
        *(
            "access_settings",
            "config",
            "connection_settings",
            "fleet_settings",
            "identity_settings",
            "overload_settings",
            "replica_settings",
            "setting_types",
        ),
        *("tls_settings", "cli", "api", "replicas"),
    },
    "pydantic_core": {"cli"},
    "pydantic_settings": {"config", "cli"},
    "rich": {"cli"},
    "starlette": {"api", "app", "page"},
    "structlog": {
        *("access", "api", "cli", "page", "publishing", "registry", "replicas", "reporting", "server", "serving"),
        "telemetry",
    },
    "typer": {"cli"},
    "h11": {"api", "identity"},
    "uvicorn": {"api"},
    "uvloop": {"cli", "fleet", "serving"},
    "watchfiles": {"sources"},
    "yaml": {"reporting", "sources", "cli"},
}
"""Each library to the parts that may import it."""

ONE_WRITER = ("model", "protocol", "publishing", "store", "registry", "serving", "sources", "transport")
"""The parts in which each mutable field is set by one module."""
SEVERAL_WRITERS: dict[str, str] = {
    "model.resource.type_url": "others set a field of this name in protobuf messages",
    "protocol.convergence.count": "the hub adds an ACK to a run in place: a call would double what an ACK costs",
    "publishing.publisher.stale_because": "the server sets the control plane's field of this name",
    "serving.streams.connections_max": "each process sets it once, the parent or a worker",
    "store.revision_notifier.revision": "etcd's store sets the field of this name of the log's head",
    **dict.fromkeys(
        [f"transport.http2.stream.{field}" for field in ("granted", "rest", "local_closed", "length_left")],
        "a connection and its streams are one state machine; what RFC 9113 says of both is in one module each",
    ),
}
"""Fields that several modules set, each with the reason."""

LONG_FUNCTIONS: dict[str, str] = {
    "xds.cli.bootstrap.bootstrap": "as serve: a line for each option of the command",
    "xds.cli.fleet.fleet": "as serve: a line for each option of the command",
    "xds.cli.push.apply": "as serve: a line for each option of the command",
    "xds.cli.serve.serve": "a line for each option of the command, of which typer makes the options and their help",
}
"""Functions that may exceed FUNCTION_LINES_MAX (``xds.cli.serve.serve``), each with the reason."""


@dataclass(frozen=True)
class Import:
    """The target of an import, and its place."""

    target: str
    line: int


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name below ``xds`` ("" is the package's own), its path and its syntax tree."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def part(self) -> str:
        return self.name.split(".")[0]

    def at(self, line: int) -> str:
        return f"{self.path.relative_to(ROOT)}:{line}"


@cache
def modules() -> tuple[Module, ...]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] != "_generated":
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found.append(Module(name, path, ast.parse(path.read_text(), str(path))))
    return tuple(found)


def imports(module: Module) -> Iterator[Import]:
    """Yield all imports of a module, at any place, by absolute dotted name; ``from a import b`` gives a.b.

    Imports under ``TYPE_CHECKING`` count too.
    """
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.at(node.lineno)}: write the absolute name, as the arrows are read by it"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield Import(name, node.lineno)


def own(target: str) -> str | None:
    """Return the name below ``xds`` of an imported module, or None if it is not one of ours."""
    if target.split(".")[0] != "xds":
        return None
    parts = target.split(".")[1:]
    while parts and not (PACKAGE.joinpath(*parts).with_suffix(".py").exists() or PACKAGE.joinpath(*parts).is_dir()):
        parts.pop()  # a name within the module
    return ".".join(parts)


def allowed(module: Module, target: str) -> bool:
    part = target.split(".")[0]
    return part == module.part or any(
        target == arrow or (arrow and target.startswith(f"{arrow}.")) for arrow in ARROWS[module.part]
    )


def no_problems(problems: list[str], what_to_do: str) -> None:
    assert not problems, "\n".join([what_to_do, *problems])


def functions(module: Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    def within(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{prefix}.{child.name}", child
            named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            yield from within(child, f"{prefix}.{child.name}" if named else prefix)

    yield from within(module.tree, f"xds.{module.name}".rstrip("."))


def test_every_part_has_its_arrows() -> None:
    parts = {module.part for module in modules()}
    assert parts == ARROWS.keys(), "give the new part its place in ARROWS, or take out the one that is gone"
    for part, targets in ARROWS.items():
        for target in targets - {""}:
            assert own(f"xds.{target}") == target, f"the arrow {part} → {target} points at nothing"


def test_imports_follow_the_arrows() -> None:
    wrong = [
        f"{module.at(found.line)}: {module.part or 'xds'} → {target or 'xds'} ({found.target})"
        for module in modules()
        for found in imports(module)
        if (target := own(found.target)) is not None and not allowed(module, target)
    ]
    no_problems(wrong, "Move what is needed to a part that both may import, or hand it in through app.py (see ARROWS).")


UNBOUNDED = {
    "difflib": "xds.model.closest: two texts of 200 characters can take difflib 0.1 s",
    "email": "xds.api.media_types: email's parser of headers takes quadratic time, and recurses",
}
"""Modules whose work on what others wrote is not linear, and what to use."""


def test_what_others_wrote_is_read_in_linear_time() -> None:
    wrong = [
        f"{module.at(found.line)}: {found.target}: use {UNBOUNDED[name]}"
        for module in modules()
        for found in imports(module)
        if (name := found.target.split(".")[0]) in UNBOUNDED
    ]
    no_problems(wrong, "Text that callers wrote may be made to cost the most.")


def circles() -> set[frozenset[str]]:
    """Return the largest sets of modules that import each other, directly or indirectly."""
    graph = {
        module.name: {
            target for found in imports(module) if (target := own(found.target)) is not None and target != module.name
        }
        for module in modules()
    }
    reached: dict[str, set[str]] = {}
    for name in graph:
        reached[name], ahead = set(), [name]
        while ahead:
            new = graph.get(ahead.pop(), set()) - reached[name]
            reached[name] |= new
            ahead += new
    return {
        frozenset(other for other in reached[name] if name in reached.get(other, ()))
        for name in graph
        if name in reached[name]
    }


def test_no_module_imports_itself_in_a_circle() -> None:
    """Imports for the type checker count too: modules that use each other's types can't be read separately."""
    problems = [" ↔ ".join(sorted(circle)) for circle in circles()]
    no_problems(problems, "Split off what both need, or have the lower one say in a Protocol what it needs.")


def test_pure_parts_do_no_io_and_know_no_clock_and_no_chance() -> None:
    wrong = [
        f"{module.at(found.line)}: {found.target}"
        for module in modules()
        for found in imports(module)
        if module.part in PURE and (module.part, found.target) != PACKAGED_FILES
        if any(f"{found.target}.".startswith(f"{name}.") for name in IMPURE)
    ]
    no_problems(wrong, "Pure parts take times, bytes and choices as arguments; I/O is for transport, sources and api.")


def test_pure_parts_call_nothing_that_reaches_out() -> None:
    reaching = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}
    wrong = [
        f"{module.at(node.lineno)}: {node.func.id}()"
        for module in modules()
        if module.part in PURE
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in reaching
    ]
    no_problems(wrong, "Pure parts return what is to be said or written; their caller does it.")


def test_the_model_and_the_protocol_keep_nothing_in_their_modules() -> None:
    """A module-level cache would keep the data of closed streams until the process exits."""
    wrong = [
        f"{module.at(found.line)}: {found.target}"
        for module in modules()
        if module.part in ("model", "protocol")
        for found in imports(module)
        if found.target in ("functools.lru_cache", "functools.cache", "functools.cached_property")
    ]
    no_problems(wrong, "Keep it in an object that the hub or the catalog has, and bound it in bytes.")


def test_each_mutable_field_is_written_by_one_module() -> None:
    """Constructors aside, a field is set by the module of its class, or by one that uses the class, not by several.

    Fields are identified by name: a module with a class that has a field of this name is taken to set its own.
    """
    problems = []
    for module in modules():
        if module.part not in ONE_WRITER:
            continue
        users = [other for other in modules() if other is not module and module.name in _imported(other)]
        for field, is_set_here in _mutable_fields(module).items():
            writers = {other.name for other in users if field in _set_on_others(other) - _mutable_fields(other).keys()}
            if is_set_here or field in _set_on_others(module):
                writers.add(module.name)
            if len(writers) > 1 and f"{module.name}.{field}" not in SEVERAL_WRITERS:
                problems.append(f"{module.name}: {field} is set in {', '.join(sorted(writers))}")
    no_problems(problems, "give the class a method that sets the field, or list it with the reason in SEVERAL_WRITERS:")


@cache
def _imported(module: Module) -> set[str | None]:
    return {own(imported.target) for imported in imports(module)}


@cache
def _mutable_fields(module: Module) -> dict[str, bool]:
    """Return the mutable fields of a module's classes, and whether their class sets them after the constructor."""
    found: dict[str, bool] = {}
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.ClassDef) or "frozen=True" in "".join(map(ast.unparse, node.decorator_list)):
            continue
        if {"NamedTuple", "Protocol"}.intersection(map(ast.unparse, node.bases)):
            continue
        for method in (each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)):
            for field in _set_in(method, on_self=True):
                found[field] = found.get(field, False) or method.name not in ("__init__", "__post_init__")
        for line in node.body:
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                found.setdefault(line.target.id, False)
    return found


@cache
def _set_on_others(module: Module) -> set[str]:
    return set(_set_in(module.tree, on_self=False))


def _set_in(tree: ast.AST, *, on_self: bool) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            is_self = isinstance(node.value, ast.Name) and node.value.id == "self"
            if is_self == on_self:
                yield node.attr


def test_libraries_stay_at_their_edge() -> None:
    wrong = []
    for module in modules():
        for found in imports(module):
            library = found.target.split(".")[0]
            theirs = library != "xds" and library not in sys.stdlib_module_names
            if theirs and module.part not in THIRD_PARTY.get(library, set()):
                wrong.append(f"{module.at(found.line)}: {module.part or 'xds'} imports {library}")
    no_problems(wrong, "Use the library where it is used already, or give it a place in THIRD_PARTY.")


def test_commands_print_by_one_module_which_escapes_text_of_others() -> None:
    printing = re.compile(r"^(print|sys\.(stdout|stderr)\.(write|writelines|buffer\.write)|typer\.(echo|secho))$")
    wrong = [
        f"{module.at(node.lineno)}: {name}"
        for module in modules()
        if module.part == "cli" and module.name != "cli.output"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        if printing.match(name := ast.unparse(node.func)) or name.endswith((".print", "json.dumps", "yaml.safe_dump"))
        if not (name == "json.dumps" and module.name == "cli.bootstrap")  # into a comment, which is escaped as a line
    ]
    no_problems(wrong, "Print by say, warn, print_json, print_table of xds/cli/output.py.")


def test_answers_in_json_are_made_by_one_class_which_escapes_text_of_others() -> None:
    wrong = [
        f"{module.at(node.lineno)}: {ast.unparse(node.func)}"
        for module in modules()
        if module.part == "api" and module.name != "api.json_answer"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"JSONResponse", "json.dumps", "yaml.dump"}
    ]
    no_problems(wrong, "Use JsonAnswer, and json_text and yaml_text of xds/reporting/escaping.py.")


def test_files_are_written_where_only_their_owner_can_read_them() -> None:
    """Calls that create a file or directory with the mode that the umask allows."""
    making = re.compile(
        r"(^|\.)(write_text|write_bytes|mkdir|makedirs|touch|mkfifo|copy2|copyfile|copytree|savefig|TemporaryFile"
        r"|NamedTemporaryFile)$"
    )
    writing = re.compile(r"['\"][rbt]*[wxa+][rbt+]*['\"]")
    wrong = []
    for module in modules():
        for node in ast.walk(module.tree):
            if module.name == "process.private_files" or not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            arguments = [ast.unparse(each) for each in (*node.args, *(keyword.value for keyword in node.keywords))]
            opens = re.search(r"(^|\.)(open|fdopen)$", name) and any(map(writing.fullmatch, arguments))
            creates = name == "os.open" and "O_CREAT" in " ".join(arguments)
            if (making.search(name) and "figure" not in name) or opens or creates:
                wrong.append(f"{module.at(node.lineno)}: {name}({', '.join(arguments)})")
    no_problems(wrong, "Make it by xds/process/private_files.py: what we write holds keys, names of nodes, and tokens.")


def test_resources_leave_the_api_by_one_door() -> None:
    doors = {"xds.schema.show", "xds.schema.wrapping.as_any", "xds.schema.wrapping.wrapped_json", "xds.schema.redact"}
    wrong = [
        f"{module.at(found.line)}: {found.target}"
        for module in modules()
        if module.part == "api" and module.name != "api.shown"
        for found in imports(module)
        if any(f"{found.target}.".startswith(f"{door}.") for door in doors)
    ]
    no_problems(wrong, "Show resources by xds.api.shown, which hides secrets unless they are asked for.")


def test_functions_are_short() -> None:
    long = {
        name: f"{module.at(node.lineno)}: {name} has {length} lines"
        for module in modules()
        for name, node in functions(module)
        if (length := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES_MAX
    }
    wrong = [text for name, text in long.items() if name not in LONG_FUNCTIONS]
    no_problems(
        wrong, f"Split what is longer than {FUNCTION_LINES_MAX} lines, or say in LONG_FUNCTIONS why it is one thing."
    )
    assert long.keys() == LONG_FUNCTIONS.keys(), "take out of LONG_FUNCTIONS what is short by now"


def test_names_are_not_vague() -> None:
    vague = re.compile(r"(^|_)(utils?|helpers?|managers?|common|misc)$", re.IGNORECASE)
    wrong = [f"{module.path.relative_to(ROOT)}" for module in modules() if vague.search(module.name.split(".")[-1])]
    for module in modules():
        for node in ast.walk(module.tree):
            name = getattr(node, "name", None) if isinstance(node, ast.ClassDef | ast.FunctionDef) else None
            if name and vague.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)):
                wrong.append(f"{module.at(node.lineno)}: {name}")
    no_problems(wrong, "Name it after what it does: utils, helpers, managers and common hold anything.")


def test_every_module_says_what_it_is_for() -> None:
    wrong = []
    for module in modules():
        first = (ast.get_docstring(module.tree) or "").split("\n\n")[0].strip()
        if not first.endswith((".", ":", '."')) and module.path.read_text().strip():
            wrong.append(f"{module.path.relative_to(ROOT)}: {first!r}")
    no_problems(wrong, "Begin it with a docstring in whole sentences: what the module does.")


def test_no_todo_is_left() -> None:
    mark = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    wrong = [
        f"{module.at(number)}: {line.strip()}"
        for module in modules()
        for number, line in enumerate(module.path.read_text().splitlines(), start=1)
        if mark.search(line)
    ]
    no_problems(wrong, "Do it now, or open an issue and say why in words.")


OTHER_TASKS: dict[str, str] = {
    "xds.api.admission.Admission.recorded": "awaited by the call, unless its client has gone; it records what failed",
    "xds.api.admission.until_lapsed": "awaited at once",
    "xds.api.grpc_api.GrpcApi._answer_pushes": "awaited by the call that it reads for, which fails with it",
    "xds.api.http_port.HttpPort._admit": "one connection; what it raises is raised in its callback, and logged",
    "xds.client.endpoints.EndpointStream.__init__": "what they raise is told to everybody who pushes",
    "xds.fleet.links._together": "awaited at once",
    "xds.replicas.asking.Asking._heard": "awaited by the question; one that is late is heard by the next",
    "xds.server._unless_ended": "awaited at once",
    "xds.server._until_second_signal": "awaited at once",
    "xds.serving.worker.ServingWorker._run": "a fault ends the process, which its parent logs, counts and replaces",
    "xds.sources.alarm.Alarm.__aenter__": "waits for one event, and can't fail",
    "xds.sources.alarm.Alarm._listen": "a fault is logged, and polling goes on until the next sweep begins another",
    "xds.store.etcd_client.EtcdClient.watch": "without it the watch ends after three seconds, and another one is begun",
    "xds.transport.calls.ReplyCall._go_on": "one request; a fault is reported and ends its call",
    "xds.transport.revocation_watch.RevocationWatch.start": "a fault is reported, and the watch goes on",
    "xds.transport.grpcio.GrpcioTransport.drain": "awaited by it",
    "xds.transport.grpcio._Call.send_cohort": "one stream; a fault is reported and ends it",
    "xds.transport.grpcio._Call.ready": "one stream; a fault is reported and ends it",
}
"""Tasks that ``xds.process.background`` does not run, by where they start, each with what happens if it fails."""
TASK_STARTERS = {"create_task", "ensure_future", "Thread", "run_coroutine_threadsafe"}


def test_every_background_task_is_looked_after() -> None:
    """A failed task must not go unnoticed: run it with ``Background``, or list it here with what notices a failure."""
    found = {
        f"xds.{module.name}.{place}"
        for module in modules()
        if module.name != "process.background"
        for place, node in _placed(module.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in TASK_STARTERS
        and not (
            isinstance(node.func.value, ast.Name) and node.func.value.id == "group"
        )  # a TaskGroup handles its own tasks
    }
    unexpected = sorted(found - OTHER_TASKS.keys())
    no_problems(unexpected, "Begin these tasks by Background.keep or Background.run, or add them to OTHER_TASKS.")
    assert found == OTHER_TASKS.keys(), "these are gone"


def _placed(tree: ast.AST, place: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Yield every node with the dotted name of its outermost function."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from _placed(node, f"{place}.{node.name}" if place else node.name)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = f"{place}.{node.name}" if place else node.name
            yield from ((inner, each) for each in ast.walk(node))
        else:
            yield place, node
            yield from _placed(node, place)


ASLEEP: dict[str, str] = {
    "tests/support/waiting.py": "what all others wait by",
    "tests/simulation/sockets.py": "its events come at times of their own",
    "tests/simulation/test_process.py": "it sleeps on a simulated clock",
}
"""Modules of the tests that may sleep, each with its reason."""


def test_tests_wait_for_conditions() -> None:
    """A sleep is too short on a busy machine and too long on any other, and says not what it is for."""
    wrong, found = [], set()
    for path in sorted((ROOT / "tests").rglob("*.py")):
        name = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text(), name)):
            if isinstance(node, ast.Call) and _sleeps(node):
                found.add(name)
                wrong += [f"{name}:{node.lineno}: {ast.unparse(node)}"] * (name not in ASLEEP)
    no_problems(wrong, "Wait by support/waiting.py: wait_until, or stays, for_a_while, turns where no condition tells.")
    assert found == ASLEEP.keys(), "these don't sleep any more"


def _sleeps(call: ast.Call) -> bool:
    name = ast.unparse(call.func).rpartition(".")[2]
    waits_for_nothing = name == "select" and all(ast.unparse(each) == "[]" for each in call.args[:3])
    return name == "sleep" or waits_for_nothing
