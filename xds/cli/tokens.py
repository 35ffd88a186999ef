"""``xds tokens``: create, list and revoke the named tokens of the push API, in the file that servers follow."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xds.cli.output import EXIT_CODES, EXIT_FAILED, EXIT_USAGE, count, fail, print_table, say, warn
from xds.cli.store_option import StoreCommand
from xds.cli.talk import Output, print_as

if TYPE_CHECKING:
    from xds.access.tokens import TokenRecord

app = typer.Typer(
    name="tokens",
    help="Create, list and revoke the tokens with which people and systems use the push API.\n\n"
    "The tokens are in a file beside the store (STORE.tokens), which has only their hashes. A server with that store "
    "sees a change within a second, and asks every caller for a token from the first one on. The commands need no "
    "server: whoever may write the file may create tokens.",
    no_args_is_help=True,
)
_UNITS_S = {"m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400, "y": 365 * 86_400}
Store = Annotated[
    str,
    typer.Option(
        "--store",
        metavar="URL",
        envvar="XDS_STORE__URL",
        help="The server's store, whose tokens they are. Default: SQLite in the XDG state directory.",
    ),
]
TokensFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        envvar="XDS_ACCESS__TOKENS_FILE",
        help="The file of tokens (access.tokens_file). Default: beside the store.",
    ),
]
AuditFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        envvar="XDS_ACCESS__AUDIT_FILE",
        help="Where it is recorded (access.audit_file). Default: beside the store.",
    ),
]


def _examples(*lines: str) -> str:
    return "\n\n".join(["[bold]Examples[/bold]", *(line.replace("[", "\\[") for line in lines), EXIT_CODES])


@app.command(
    cls=StoreCommand,
    epilog=_examples(
        "xds tokens create ci --role write --group 'web-*' --expires 90d --out ci.token",
        "xds tokens create ann --role read --role secrets",
        "xds tokens create ops --role admin --expires 2027-01-31",
    ),
)
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is: the author of its changes is token:NAME.")],
    role: Annotated[
        list[str],
        typer.Option(
            "--role",
            "-r",
            metavar="ROLE",
            help="read; write (and read and roll back); rollout (read and roll back); secrets (read, see secrets and, "
            "with write, set them); admin (everything). Repeatable.",
        ),
    ],
    group: Annotated[
        list[str] | None,
        typer.Option(
            "--group", "-g", metavar="GLOB", help="Only in groups like this; repeatable. Default: all groups."
        ),
    ] = None,
    expires: Annotated[
        str, typer.Option(metavar="TIME", help="When it ends: 12h, 90d, 1y from now, or 2027-01-31. Default: never.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the token to a new file (mode 0600) instead of stdout.")
    ] = None,
    store: Store = "",
    tokens_file: TokensFile = None,
    audit_file: AuditFile = None,
    output: Output = "table",
) -> None:
    """Create a token and print it: this is the only time that it is shown."""
    from xds.access.errors import AccessFileError
    from xds.access.tokens import create_token, token_problems

    path, audit_path = _paths(store, tokens_file, audit_file)
    roles, groups, expires_at = tuple(role), tuple(group or ()), _time(expires) if expires else None
    if problems := token_problems(name, roles, groups, expires_at):
        fail(*problems, code=EXIT_USAGE)
    try:
        with _written(out) as write:
            is_first = not path.exists()
            made, token = create_token(path, name, roles, groups, expires_at=expires_at)
            write(token)
    except AccessFileError as error:
        fail(str(error), code=EXIT_FAILED)
    _record("CreateToken", made, audit_path)
    if is_first:
        warn(f"the push API of a server with this store asks every caller for a token from now on ({path})")
    if output != "table":
        print_as(output, _json_of(made) | ({"token": token} if out is None else {"out": str(out)}))
    elif out is None:
        say(token)
        warn(f"{_described(made)}; the token is not shown again")
    else:
        say(f"{_described(made)}; the token is in {out}")


@app.command(cls=StoreCommand, name="list", epilog=_examples("xds tokens list", "xds tokens list -o json"))
def list_tokens(store: Store = "", tokens_file: TokensFile = None, output: Output = "table") -> None:
    """Print all tokens, without what is secret of them: roles, groups, until when they are valid, and their last use.

    A running server writes the last use once a minute and when it ends, beside the file of tokens.
    """
    from xds.access.errors import AccessFileError
    from xds.access.last_used import read_last_used
    from xds.access.tokens import read_tokens

    path = _path(store, tokens_file)
    try:
        records = read_tokens(path)
        used = read_last_used(path)
    except FileNotFoundError:
        records, used = (), {}
    except AccessFileError as error:
        fail(str(error), code=EXIT_FAILED)
    except OSError as error:
        fail(f"when tokens were used can't be read: {error}", code=EXIT_FAILED)
    if output != "table":
        tokens = [_json_of(each) | {"last_used_at": used.get(each.id)} for each in records]
        print_as(output, {"file": str(path), "tokens": tokens})
        return
    now_s = time.time()
    rows = [
        [
            each.id,
            each.name,
            each.state(now_s),
            ", ".join(each.roles),
            ", ".join(each.groups) or "all",
            _shown(each.created_at),
            _shown(each.expires_at),
            _shown(used.get(each.id)),
        ]
        for each in records
    ]
    print_table(["id", "name", "state", "roles", "groups", "created", "expires", "last used"], rows)
    say("", f"{path}: {count(len(records), 'token')}")


@app.command(cls=StoreCommand, epilog=_examples("xds tokens revoke ci", "xds tokens revoke 3f9a1c02"))
def revoke(
    named: Annotated[str, typer.Argument(metavar="NAME|ID", help="All tokens of that name, or the one with that id.")],
    store: Store = "",
    tokens_file: TokensFile = None,
    audit_file: AuditFile = None,
    output: Output = "table",
) -> None:
    """End a token: servers refuse it within a second, and end its open streams."""
    from xds.access.errors import AccessFileError
    from xds.access.tokens import revoke_tokens

    path, audit_path = _paths(store, tokens_file, audit_file)
    try:
        revoked = revoke_tokens(path, named)
    except AccessFileError as error:
        fail(str(error), code=EXIT_FAILED)
    for each in revoked:
        _record("RevokeToken", each, audit_path)
    if output != "table":
        print_as(output, {"revoked": [_json_of(each) for each in revoked]})
    elif revoked:
        say(*(f"revoked: {each.name} ({each.id})" for each in revoked))
    else:
        say(f"{named} was revoked before")


def _path(store: str, tokens_file: Path | None) -> Path:
    return tokens_file or _beside(store, "tokens", "--tokens-file")


def _paths(store: str, tokens_file: Path | None, audit_file: Path | None) -> tuple[Path, Path | None]:
    """Return the files of the tokens and of the audit log, None without one. Both are known before one is written."""
    from xds.store.opening import beside_store

    path = _path(store, tokens_file)
    if audit_file is None:
        _check(store)
    return path, audit_file or beside_store(store, "audit")


def _check(store: str) -> None:
    from xds.store.opening import StoreUrlError, check_url

    try:
        check_url(store)
    except StoreUrlError as error:
        fail(f"--store: {error}", code=EXIT_USAGE)


def _beside(store: str, suffix: str, option: str) -> Path:
    from xds.store.opening import beside_store

    _check(store)
    if (path := beside_store(store, suffix)) is None:
        fail(f"--store: a store in memory has no file: give {option}", code=EXIT_USAGE)
    return path


def _record(what: str, token: "TokenRecord", path: Path | None) -> None:
    """Record in the audit log that a token was created or revoked."""
    import getpass

    from xds.access.audit import DONE, AuditLog
    from xds.access.errors import AccessFileError

    try:
        who = f"os:{getpass.getuser()}"
    except (KeyError, OSError):  # a user without a name, as in a container
        who = "os:unknown"
    try:
        audit = AuditLog(path, logs=False)
        audit.open()
    except AccessFileError as error:
        warn(f"not recorded: {error}")
        return
    groups = token.groups or None
    audit.record(
        what, who=who, outcome=DONE, token=token.name, token_id=token.id, roles=list(token.roles), groups=groups
    )
    if audit.problem:
        warn(f"not recorded: {audit.problem}")
    audit.close()


@contextmanager
def _written(path: Path | None) -> Iterator[Callable[[str], None]]:
    """Yield what writes the token to a new file, which is there before the token is; it is removed on an error."""
    from xds.process.private_files import open_private

    if path is None:
        yield lambda _token: None
        return
    try:
        file = open_private(path, "xb")
    except FileExistsError:
        fail(f"--out: {path} is there already", code=EXIT_USAGE)
    except OSError as error:
        fail(f"--out: {path}: {error.strerror}", code=EXIT_USAGE)

    def write(token: str) -> None:
        try:
            file.write(f"{token}\n".encode())
            file.flush()
        except OSError as error:
            lost = "the token is lost: revoke it, and create another"
            fail(f"--out: {path}: {error.strerror}; {lost}", code=EXIT_FAILED)

    try:
        yield write
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        with suppress(OSError):  # what a failed write left can't be written at the end either
            file.close()


def _time(text: str) -> int:
    """Return the Unix time of an option's value."""
    now_s = int(time.time())
    if found := re.fullmatch(r"(\d{1,6})([mhdwy])", text):
        at_s = now_s + int(found.group(1)) * _UNITS_S[found.group(2)]
    else:
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            fail(f"--expires: {text!r} is no time: write 12h, 90d, 1y, or 2027-01-31", code=EXIT_USAGE)
        at_s = int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())
    if at_s <= now_s:
        fail(f"--expires: {text} is past, or now", code=EXIT_USAGE)
    return at_s


def _shown(at_s: int | None) -> str:
    if at_s is None:
        return "never"
    try:
        return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError, OSError):  # the file has a time that is in no calendar
        return f"{at_s} s since 1970"


def _described(token: "TokenRecord") -> str:
    where = ", ".join(token.groups) if token.groups else "all groups"
    until = "never ends" if token.expires_at is None else f"ends {_shown(token.expires_at)} UTC"
    return f"token {token.name} ({token.id}): {', '.join(token.roles)} in {where}; {until}"


def _json_of(token: "TokenRecord") -> dict[str, Any]:
    return {
        "id": token.id,
        "name": token.name,
        "state": token.state(time.time()),
        "roles": list(token.roles),
        "groups": list(token.groups),
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
    }
