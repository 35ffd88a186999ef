"""``xds serve``: load the settings from options, environment and file, and run the server."""

import gc
import os
import shutil
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xds.cli.output import (
    EXIT_FAILED,
    EXIT_USAGE,
    count,
    examples,
    fail,
    print_problems,
    resource_table,
    say,
    show,
    shown_groups,
)
from xds.cli.progress import progress_bar
from xds.cli.schema import SchemaOption
from xds.process.signals import ignore_in_parent

if TYPE_CHECKING:
    from xds.cli.settings import Given
    from xds.config import ServingInfo, Settings

GROUPS_SHOWN_MAX = 10

EPILOG = examples(
    "xds serve snapshots/quickstart",
    "xds serve DIR --listen 0.0.0.0:18000 --tls-cert cert.pem --tls-key key.pem --tls-client-ca ca.pem",
    "XDS_LOG__FORMAT=json xds serve DIR --config /etc/xds.yaml --set protocol.hold_timeout_s=30",
)

_TLS = "TLS"
_LOGS = "Logs"
_API = "Push API"


def serve(
    directory: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="The directory of resources; else XDS_DIRECTORY.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings as YAML or TOML; else XDS_CONFIG.")
    ] = None,
    listen: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="HOST:PORT or unix:/PATH for xDS. Default: 127.0.0.1:18000.")
    ] = None,
    admin: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="HOST:PORT for health and metrics, or off. Default: 127.0.0.1:19000."),
    ] = None,
    tls_cert: Annotated[
        str | None, typer.Option(metavar="FILE", help="The server's certificate chain.", rich_help_panel=_TLS)
    ] = None,
    tls_key: Annotated[
        str | None, typer.Option(metavar="FILE", help="The certificate's private key.", rich_help_panel=_TLS)
    ] = None,
    tls_client_ca: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Clients must have a certificate of these CAs.", rich_help_panel=_TLS),
    ] = None,
    tls_trust_domain: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DOMAIN=FILE", help="A SPIFFE trust domain and its CAs; may be repeated.", rich_help_panel=_TLS
        ),
    ] = None,
    tls_crl: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="A revocation list of a CA; may be repeated.", rich_help_panel=_TLS),
    ] = None,
    insecure_xds: Annotated[
        bool | None,
        typer.Option(
            "--insecure-xds",
            help="Serve other machines without client certificates, secrets too.",
            rich_help_panel=_TLS,
        ),
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="debug, info, warning or error.", rich_help_panel=_LOGS)
    ] = None,
    log_format: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="auto, console or json.", rich_help_panel=_LOGS)
    ] = None,
    workers: Annotated[
        str | None, typer.Option(metavar="N", help="Processes that share the port; 0: only one. Default: one per core.")
    ] = None,
    drain_timeout: Annotated[
        str | None, typer.Option(metavar="SECONDS", help="Close the streams over so long at SIGTERM. Default: 10.")
    ] = None,
    reflection: Annotated[
        bool | None, typer.Option("--reflection", help="Serve gRPC reflection, as grpcurl uses it.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="sqlite:///PATH, memory:, or etcd://HOST:PORT,…/PREFIX. Default: SQLite in the XDG state directory.",
        ),
    ] = None,
    schema: SchemaOption = None,
    api: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="HOST:PORT of the gRPC push API, or off. Default: 127.0.0.1:18001.",
            rich_help_panel=_API,
        ),
    ] = None,
    api_token_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Holds the token that callers must show.", rich_help_panel=_API)
    ] = None,
    api_tls_cert: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Certificate chain of push API and admin port.", rich_help_panel=_API),
    ] = None,
    api_tls_key: Annotated[
        str | None, typer.Option(metavar="FILE", help="The certificate's private key.", rich_help_panel=_API)
    ] = None,
    insecure_api: Annotated[
        bool | None,
        typer.Option("--insecure-api", help="Let other machines push without TLS and token.", rich_help_panel=_API),
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting, by its key in the file.")
    ] = None,
) -> None:
    """Serve resources to Envoys: those of a directory, whose changes are followed, and what the push API is given.

    Each setting can be an option, an environment variable (XDS_LISTEN, XDS_PROTOCOL__HOLD_TIMEOUT_S) or a key of the
    settings file (protocol: {hold_timeout_s: 30}); the first that has it wins. `xds settings` lists them all.

    SIGTERM and SIGINT drain: /readyz turns 503, streams are closed over the drain time, exit 0. SIGHUP reads the
    directory, the TLS files and the token again.
    """
    options: dict[str, tuple[tuple[str, ...], Any]] = {
        "DIR": (("directory",), directory),
        "--listen": (("listen",), listen),
        "--admin": (("admin",), admin),
        "--tls-cert": (("tls", "cert"), tls_cert),
        "--tls-key": (("tls", "key"), tls_key),
        "--tls-client-ca": (("tls", "client_ca"), tls_client_ca),
        "--tls-trust-domain": (("tls", "trust_domains"), ",".join(tls_trust_domain) if tls_trust_domain else None),
        "--tls-crl": (("tls", "crls"), tuple(tls_crl) if tls_crl else None),
        "--insecure-xds": (("insecure_xds",), insecure_xds),
        "--log-level": (("log", "level"), log_level),
        "--log-format": (("log", "format"), log_format),
        "--workers": (("transport", "workers"), workers),
        "--drain-timeout": (("drain", "timeout_s"), drain_timeout),
        "--reflection": (("reflection",), reflection),
        "--store": (("store", "url"), store),
        "--schema": (("schemas",), tuple(schema) if schema else None),
        "--api": (("api", "listen"), api),
        "--api-token-file": (("api", "token_file"), api_token_file),
        "--api-tls-cert": (("api", "tls_cert"), api_tls_cert),
        "--api-tls-key": (("api", "tls_key"), api_tls_key),
        "--insecure-api": (("api", "insecure"), insecure_api),
    }
    gc.disable()  # nothing that is loaded at the start is garbage; the server enables it when it serves
    try:
        run(_settings(options, assignments or [], config))
    finally:
        gc.enable()


def run(settings: "Settings") -> None:
    """Run the server until it ends and exit with its code."""
    ignore_in_parent()
    from xds.reporting.logs import configure_logging, is_json

    as_json = is_json(settings.log.format)
    configure_logging(level=settings.log.level, form=settings.log.format)
    import uvloop

    from xds import server
    from xds.access.errors import AccessFileError
    from xds.address import BindError
    from xds.model.problem import ChangesetRejectedError
    from xds.schema.pool import UnknownFieldError
    from xds.schema.union import SchemaError
    from xds.store.errors import StoreError
    from xds.telemetry.errors import TracesMissingError
    from xds.transport.pool import WorkerFailedError
    from xds.validation.errors import EnvoyMissingError, EnvoyUnusableError

    tell = log_serving if settings.log.format == "json" else partial(print_serving, sys.stdout)
    try:
        with ExitStack() as reading:
            progress = None if as_json else reading.enter_context(progress_bar())

            def announce(info: "ServingInfo") -> None:
                reading.close()
                tell(info)

            code = uvloop.run(server.serve(settings, announce=announce, progress=progress))
    except ChangesetRejectedError as error:
        print_problems(error.problems, sys.stderr)
        fail(f"{settings.directory} can't be served: {count(len(error.problems), 'problem')}, above", code=EXIT_FAILED)
    except UnknownFieldError as error:
        fail(f"redact.fields: {error}", code=EXIT_USAGE)
    except (AccessFileError, BindError, EnvoyMissingError, EnvoyUnusableError, SchemaError, WorkerFailedError) as error:
        fail(str(error), code=EXIT_FAILED)
    except (StoreError, TracesMissingError) as error:
        fail(str(error), code=EXIT_FAILED)
    except KeyboardInterrupt:
        code = 130
    raise typer.Exit(code)


def log_serving(info: "ServingInfo") -> None:
    """Log the served resources and the addresses as one event."""
    import structlog

    structlog.get_logger("xds.serve").info(
        "serving",
        listen=str(info.listen),
        admin=None if info.admin is None else str(info.admin),
        api=None if info.api is None else str(info.api),
        tls=info.tls,
        api_tls=info.api_tls,
        directory=None if info.directory is None else str(info.directory),
        **({"directory_problem": info.directory_problem} if info.directory_problem else {}),
        resources={group: dict(counts) for group, counts in info.resources.items()},
    )


def print_serving(stream: Any, info: "ServingInfo") -> None:
    """Print the served resources, the addresses and commands to try next, for people to read."""
    tls = {"off": "plaintext", "server": "TLS", "mutual": "mTLS"}[info.tls]
    api_tls = "  (TLS)" if info.api_tls else ""
    if info.directory_problem:
        say(f"NOT serving what {info.directory} has now: {info.directory_problem}", stream=stream, style="bold red")
    else:
        say(f"serving {info.directory or 'what the store has, and what is pushed'}", stream=stream, style="bold")
    say(
        f"  xDS    {info.listen}  ({tls})",
        f"  admin  {f'{_scheme(info)}://{info.admin}' if info.admin else 'off'}",
        f"  push   {f'{info.api}{api_tls}' if info.api else 'off'}",
        "",
        stream=stream,
    )
    show(resource_table(info.resources, groups_max=GROUPS_SHOWN_MAX), stream=stream, soft_wrap=True)
    say("", "try next", stream=stream, style="bold")
    say(f"  {_envoy_command(info)}", stream=stream)
    if info.admin is not None:
        ca = "--cacert CA.pem " if info.api_tls else ""
        say(f"  curl {ca}{_scheme(info)}://{info.admin.reachable}/readyz", stream=stream)
    say("", stream=stream)


def _scheme(info: "ServingInfo") -> str:
    return "https" if info.api_tls else "http"


def _envoy_command(info: "ServingInfo") -> str:
    groups = [group for group in sorted(shown_groups(info.resources)) if group != "default"]
    tls = {"off": "", "server": " --tls-ca CA.pem", "mutual": " --tls-ca CA.pem --tls-cert CERT.pem --tls-key KEY.pem"}
    cluster = groups[0] if groups else "demo"
    return f"{_program()} envoy --node-id demo --cluster {cluster} --server {info.listen.reachable}{tls[info.tls]}"


def _program() -> str:
    """Return the command that runs this program: its name if the shell finds it, else its path."""
    if shutil.which("xds"):
        return "xds"
    path = os.path.relpath(sys.argv[0])
    return path if not path.startswith("..") else os.path.abspath(sys.argv[0])


def _settings(
    options: dict[str, tuple[tuple[str, ...], Any]], assignments: list[str], config: Path | None
) -> "Settings":
    from xds.cli.settings import Given, SettingsRejectedError, load_settings

    given = [Given(path, value, option) for option, (path, value) in options.items() if value is not None]
    try:
        settings = load_settings([*map(_assigned, assignments), *given], config_file=config)
    except SettingsRejectedError as error:
        fail(*error.problems, code=EXIT_USAGE)
    return settings


def _assigned(text: str) -> "Given":
    from xds.cli.settings import Given

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE, as protocol.hold_timeout_s=30", param_hint="--set")
    return Given(tuple(key.split(".")), value, f"--set {key}")
