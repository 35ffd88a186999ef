"""Shared parts of the commands over the push API: server options, the client, output formats and exit codes."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeVar

import typer

from xds.cli.completion import complete_group
from xds.cli.output import EXIT_FAILED, EXIT_USAGE, count, fail, print_json, print_yaml, problem_lines

if TYPE_CHECKING:
    from xds.client import Client, ClientError

EXIT_CONFLICT = 3
EXIT_NOT_FOUND = 4
EXIT_UNAVAILABLE = 5
EXIT_UNKNOWN = 6

CLIENT_EXIT_CODES = (
    "Exit codes: 0 done; 1 rejected, every problem above; 2 a wrong option or argument; 3 a conflict: the group was "
    "changed after --expected-revision; 4 no such group, resource or revision; 5 the server or its store is away; 6 it "
    "is not known whether the change was made: try again with the --id that is told; 9 the output can't be written. "
    "With -o json, errors are JSON too."
)

_SERVER = "Server"
Api = Annotated[
    str,
    typer.Option(
        "--api",
        metavar="HOST:PORT",
        envvar="XDS_PUSH_ADDRESS",
        help="Where the push API is served.",
        rich_help_panel=_SERVER,
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", envvar="XDS_PUSH_TOKEN_FILE", help="Holds the token to show.", rich_help_panel=_SERVER
    ),
]
ApiCa = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        envvar="XDS_PUSH_CA",
        help="CAs that sign the server's certificate. XDS_PUSH_CERT and XDS_PUSH_KEY are your own certificate.",
        rich_help_panel=_SERVER,
    ),
]
Group = Annotated[str, typer.Option("--group", "-g", help="The group of nodes.", autocompletion=complete_group)]
Output = Annotated[Literal["table", "yaml", "json"], typer.Option("--output", "-o", help="How to print what is found.")]
ShowSecrets = Annotated[bool, typer.Option("--show-secrets", help="Print secrets too: mind where the output goes.")]
DEFAULT_API = "127.0.0.1:18001"
PUSH_CERT, PUSH_KEY = "XDS_PUSH_CERT", "XDS_PUSH_KEY"
"""Variables with the files of the client's own certificate and its key, for servers that ask for one."""
T = TypeVar("T")


def examples_of(*lines: str) -> str:
    """Return an epilog with example command lines and the exit codes of these commands."""
    shown = (line.replace("[", "\\[") for line in lines)
    return "\n\n".join(["[bold]Examples[/bold]", *shown, CLIENT_EXIT_CODES])


def talk(
    api: str,
    token_file: Path | None,
    ca: Path | None,
    work: "Callable[[Client], Awaitable[T]]",
    *,
    redact: bool = True,
    changes: bool = False,
    not_found_hint: str = "",
) -> T:
    """Run ``work`` with a connected client and return its result; on an error, print it and exit with its code.

    ``changes`` says whether the work changes something on the server. ``not_found_hint`` is printed after the error
    that a group, resource or revision does not exist.
    """
    import asyncio

    from xds.client import Client, ClientError

    token = ""
    if token_file is not None:
        try:
            token = token_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            fail(f"--token-file: {token_file} can't be read: {error.strerror}", code=EXIT_USAGE)
        except UnicodeDecodeError:
            fail(f"--token-file: {token_file} is not text, so it holds no token", code=EXIT_USAGE)
        if not token:
            fail(f"--token-file: {token_file} is empty", code=EXIT_USAGE)

    cert, key = _own_certificate(PUSH_CERT), _own_certificate(PUSH_KEY)

    async def run() -> T:
        async with Client(api, token=token, tls_ca=ca, tls_cert=cert, tls_key=key, redact=redact) as client:
            return await work(client)

    try:
        return asyncio.run(run())
    except ClientError as error:
        _fail(error, api, changes=changes, not_found_hint=not_found_hint)
    except UnicodeEncodeError as error:  # an argument, or a variable such as USER, that is not UTF-8
        fail(f"{str(error.object)[:100]!a} is not text: it has bytes that are not UTF-8", code=EXIT_USAGE)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _own_certificate(variable: str) -> Path | None:
    if not (text := os.environ.get(variable)):
        return None
    path = Path(text)
    try:
        path.read_bytes()
    except OSError as error:
        fail(f"{variable}: {path} can't be read: {error.strerror}", code=EXIT_USAGE)
    return path


def _fail(error: "ClientError", api: str, *, changes: bool, not_found_hint: str) -> NoReturn:
    from xds.client import (
        ConflictError,
        NotFoundError,
        OutcomeUnknownError,
        RejectedError,
        TokenError,
        UnavailableError,
    )

    match error:
        case RejectedError(problems=problems) if problems and changes:
            found = count(len(problems), "problem")
            fail(f"rejected, nothing was changed: {found}", code=EXIT_FAILED, problems=problems)
        case RejectedError(problems=problems) if (
            problems
        ):  # a read has no content that could be wrong but its arguments
            fail(*(line.strip() for line in problem_lines(problems)), code=EXIT_USAGE)
        case TokenError():
            fail(str(error), code=EXIT_USAGE)
        case ConflictError():
            fail(str(error), code=EXIT_CONFLICT)
        case NotFoundError():
            fail(str(error), *([not_found_hint] if not_found_hint else []), code=EXIT_NOT_FOUND)
        case OutcomeUnknownError():
            fail(f"it is not known whether the change was made: {error}", code=EXIT_UNKNOWN)
        case UnavailableError(is_answered=True):
            fail(str(error), code=EXIT_UNAVAILABLE)
        case UnavailableError():
            fail(f"{api}: {error}", "is `xds serve` running there? its --api says where", code=EXIT_UNAVAILABLE)
        case _:
            fail(str(error), code=EXIT_FAILED)


def print_as(output: str, content: Any) -> None:
    """Print content as JSON or YAML."""
    if output == "json":
        print_json(content)
    else:
        print_yaml(content)
