"""``xds whoami`` and ``xds audit``: who the caller is to a server, and the records of its audit log."""

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from xds.cli.output import EXIT_FAILED, EXIT_USAGE, count, fail, print_table, say, warn
from xds.cli.talk import DEFAULT_API, Api, ApiCa, Output, TokenFile, examples_of, print_as, talk

WHOAMI_EPILOG = examples_of("xds whoami", "xds whoami --token-file ci.token -o json")
AUDIT_EPILOG = examples_of(
    "xds audit --since 1d",
    "xds audit --who 'token:ci' --group 'web-*' --outcome forbidden",
    "xds audit --file /var/lib/xds/store.db.audit --verify",
)
_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}
_SHOWN = ("at", "who", "peer", "what", "outcome", "revision", "groups")


def whoami(
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Print who you are to the server, and what you may do there."""
    found = talk(api, token_file, ca, lambda client: client.whoami())
    if output != "table":
        grants = [{"roles": list(each.roles), "groups": list(each.groups)} for each in found.grants]
        print_as(output, {"identity": found.identity, "grants": grants})
        return
    say(found.identity or "anyone: this server asks for no credentials")
    for each in found.grants:
        say(f"  {', '.join(each.roles)}: {', '.join(each.groups) if each.groups else 'all groups'}")


def audit(
    who: Annotated[str, typer.Option(metavar="GLOB", help="Only of identities like this: token:ci.")] = "",
    group: Annotated[str, typer.Option("--group", "-g", metavar="GLOB", help="Only about groups like this.")] = "",
    since: Annotated[str, typer.Option(metavar="TIME", help="Only since then: 10m, 2h, 7d, or 2026-12-01.")] = "",
    outcome: Annotated[
        Literal["", "done", "rejected", "forbidden", "unauthenticated", "unknown"],
        typer.Option(help="Only with this outcome."),
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="So many at most, the newest.")] = 100,
    file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Read this file instead of asking a server; no server is needed."),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the chain of hashes of all records in --file.")
    ] = False,
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Print the audit log, newest first: who did what, from where, and with what outcome. Over the API only for admin.

    Every server has its own log, so of several replicas ask each.
    """
    if verify:
        _verify(file, output)
        return
    since_s = _time(since) if since else None
    if file is not None:
        records = _read(file, who=who, group=group, since_s=since_s, outcome=outcome, limit=limit)
    else:
        records = talk(
            api,
            token_file,
            ca,
            lambda client: client.audit(who=who, group=group, since_s=since_s, outcome=outcome, limit=limit),
        )
    if output != "table":
        print_as(output, {"records": records})
        return
    print_table([*_SHOWN, "more"], [_row(each) for each in records], right=("revision",))
    say("", count(len(records), "record"))


def _row(record: dict[str, Any]) -> list[str]:
    shown = [record.get(key, "") for key in _SHOWN]
    cells = [", ".join(each) if isinstance(each, list) else str(each) for each in shown]
    left = {key: value for key, value in record.items() if key not in (*_SHOWN, "chain", "request_id")}
    return [*cells, ", ".join(f"{key}={value}" for key, value in left.items())]


def _read(file: Path, **wanted: Any) -> list[dict[str, Any]]:
    from xds.access.audit import AuditFilter, read_audit

    if not file.exists():
        fail(f"--file: {file} does not exist", code=EXIT_USAGE)
    try:
        return read_audit(file, AuditFilter(**wanted))
    except OSError as error:
        fail(f"--file: {file}: {error.strerror}", code=EXIT_USAGE)


def _verify(file: Path | None, output: str) -> None:
    from xds.access.audit import verify_audit

    if file is None or not file.exists():
        fail("--verify: give the log's file with --file", code=EXIT_USAGE)
    try:
        total, problems = verify_audit(file)
    except OSError as error:
        fail(f"--file: {file}: {error.strerror}", code=EXIT_USAGE)
    if output != "table":
        print_as(output, {"file": str(file), "records": total, "problems": list(problems)})
    for problem in problems[:100] if output == "table" else ():
        warn(problem)
    if problems:
        fail(f"the chain is broken in {count(len(problems), 'place')}", code=EXIT_FAILED)
    if output == "table":
        say(f"fine: {count(total, 'record')}; compare the last one's chain with that in the server's own log")


def _time(text: str) -> float:
    if found := re.fullmatch(r"(\d{1,6})([smhdw])", text):
        return time.time() - int(found.group(1)) * _UNITS_S[found.group(2)]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        fail(f"--since: {text!r} is no time: write 10m, 2h, 7d, or 2026-12-01", code=EXIT_USAGE)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
