"""``xds config``: compare what a real Envoy has with what it should have."""

import json
import shlex
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xds.cli.completion import complete_group, complete_node
from xds.cli.output import EXIT_FAILED, EXIT_USAGE, count, counted, fail, say, warn
from xds.cli.talk import (
    DEFAULT_API,
    EXIT_NOT_FOUND,
    EXIT_UNAVAILABLE,
    Api,
    ApiCa,
    Output,
    TokenFile,
    examples_of,
    print_as,
    talk,
)
from xds.reporting.escaping import json_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.cli.config_dump import Compared
    from xds.client import Client
    from xds.client.results import NodeProgress
    from xds.model.resource import Resource

EPILOG = (
    examples_of(
        "xds config sidecar-17 --admin 127.0.0.1:9901",
        "xds config sidecar-17 --exec 'kubectl exec web-0 -c envoy -- curl -s localhost:9901/config_dump?include_eds'",
        "xds config sidecar-17 --dump config_dump.json -v",
    )
    + " And of this command: 1 also where the Envoy lacks, rejects or has other than it should have."
)
DUMP_BYTES_MAX = 512 * 1024 * 1024
ANSWER_S_MAX = 60.0
"""Timeout of the Envoy's answer, or of the command that prints it."""
FIELDS_SHOWN_MAX = 20
PATH = "/config_dump?include_eds"
Wanted = dict[tuple[str, str], "Resource"]
Nacks = dict[tuple[str, str], str]


def config(
    node: Annotated[
        str, typer.Argument(help="The node's id, which says what it should have.", autocompletion=complete_node)
    ],
    admin: Annotated[str, typer.Option(metavar="HOST:PORT", help="The Envoy's admin address; or unix:/PATH.")] = "",
    exec_: Annotated[
        str, typer.Option("--exec", metavar="COMMAND", help="Prints the config dump; run without a shell.")
    ] = "",
    dump: Annotated[Path | None, typer.Option(metavar="FILE", help="A saved config dump.")] = None,
    group: Annotated[
        str, typer.Option("--group", "-g", help="Its group, if it is not connected.", autocompletion=complete_group)
    ] = "",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also what is the same, unused, or static.")] = False,
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Compare an Envoy's own config dump with the resources that its group's nodes should have, field by field.

    It says what differs, is missing or warms up, what Envoy rejected and why, and what it has from elsewhere: its
    bootstrap, other control planes. Secrets are compared by their versions alone, and not printed. Endpoints are
    compared by address, locality, priority and weight; their health is Envoy's own finding.
    """
    from xds.cli.config_dump import NoDumpError, compare, read_dump, types_not_in

    if sum(map(bool, (admin, exec_, dump))) != 1:
        fail("give one of --admin, --exec and --dump: where the config dump comes from", code=EXIT_USAGE)
    text = _fetch(admin) if admin else _run(exec_) if exec_ else _read(dump)
    try:
        held = read_dump(json.loads(text))
    except (NoDumpError, ValueError, RecursionError) as error:
        fail(f"that is no config dump: {error}", code=EXIT_FAILED)

    async def work(client: "Client") -> "tuple[str, int, Wanted, Nacks]":
        return await _wanted(client, node, group)

    named, revision, wanted, nacks = talk(api, token_file, ca, work)
    try:
        found = compare(held, wanted, nacks)
    except RecursionError:
        fail("that is no config dump: it is nested too deeply", code=EXIT_FAILED)
    absent = [_short(type_url) for type_url in types_not_in(held, wanted)]
    if output != "table":
        counts = {state: number for state, number in _counts(found).items() if number}
        told = {"node": node, "group": named, "revision": revision, "counts": counts, "not_in_the_dump": absent}
        print_as(output, told | {"resources": [each.as_json() for each in found]})
    else:
        _print(node, named, revision, found, verbose=verbose)
        if absent:
            hint = f"; ask for {PATH}" if "endpoints" in absent else ""
            warn(f"not compared, as the config dump has none: {', '.join(absent)}{hint}")
    if any(each.state in _wrong() for each in found):
        raise typer.Exit(EXIT_FAILED)


async def _wanted(client: "Client", node: str, group: str) -> "tuple[str, int, Wanted, Nacks]":
    """Return the node's group, the revision, what the group's nodes should have, with its versions, and its NACKs."""
    from dataclasses import replace

    from xds.schema.ingest import ingest

    answer = await client.nodes(id=node)
    if not group:
        if not answer.nodes and answer.missing_workers:
            fail(f"node {node!r} is on no worker that answers: give its --group", code=EXIT_UNAVAILABLE)
        if not answer.nodes:
            fail(f"no node {node!r} is connected: give its --group", code=EXIT_NOT_FOUND)
        group = answer.nodes[0].group
    bases = {each.name: each.extends for each in await client.groups()}
    line = [group]
    while (base := bases.get(line[-1])) and base not in line:
        line.append(base)
    wanted: Wanted = {}
    revision = 0
    for name in reversed(line):
        snapshot = await client.snapshot(name)
        versions = {
            (each.name.type, each.name.name): each.version for each in (await client.list_resources(name)).resources
        }
        revision = snapshot.revision
        for content in snapshot.resources:
            resource = ingest(content, allow_unknown_types=True, allow_redacted=True)
            version = versions.get((_short(resource.type_url), resource.name), "")
            wanted[resource.type_url, resource.name] = replace(resource, version=version or resource.version)
    return group, revision, wanted, _nacks(answer.nodes)


def _nacks(nodes: "Iterable[NodeProgress]") -> "Nacks":
    """Return the message of its last NACK for each resource that a node rejects."""
    from xds.model.types import type_url_of

    return {
        (type_url_of(each.type), name): f"it answered with a NACK: {each.error}"
        for node in nodes
        for each in node.types
        for name in each.nacked
        if each.error
    }


def _short(type_url: str) -> str:
    from xds.model.types import short_name

    return short_name(type_url)


def _fetch(admin: str) -> bytes:
    """Return what an admin address answers; exits if it does not."""
    from http.client import HTTPConnection, HTTPException

    from xds.address import Address

    class Connection(HTTPConnection):
        """A connection that may be to a unix socket."""

        def connect(self) -> None:
            if not address.is_unix:
                super().connect()
                return
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(ANSWER_S_MAX)
            self.sock.connect(address.path)

    try:
        address = Address.parse(admin)
        connection = Connection(address.host or "localhost", address.port, timeout=ANSWER_S_MAX)
        connection.request("GET", PATH)
        answer = connection.getresponse()
        text = answer.read(DUMP_BYTES_MAX + 1)
        connection.close()
    except (ValueError, OSError, HTTPException) as error:
        fail(f"--admin {admin}: {error}", "is Envoy's admin interface there?", code=EXIT_UNAVAILABLE)
    if answer.status != 200:
        fail(f"--admin {admin}: {PATH} answers {answer.status}", code=EXIT_UNAVAILABLE)
    return _bounded(text)


def _run(command: str) -> bytes:
    """Return what a command prints; exits if it fails."""
    try:
        words = shlex.split(command)
        done = subprocess.run(words, stdout=subprocess.PIPE, timeout=ANSWER_S_MAX, check=False)  # noqa: S603 - the user's own
    except (ValueError, IndexError, OSError, subprocess.TimeoutExpired) as error:
        fail(f"--exec: {error}", code=EXIT_FAILED)
    if done.returncode:
        fail(f"--exec: the command ended with {done.returncode}", code=EXIT_FAILED)
    return _bounded(done.stdout)


def _read(dump: Path | None) -> bytes:
    assert dump is not None
    try:
        with dump.open("rb") as file:
            return _bounded(file.read(DUMP_BYTES_MAX + 1))
    except OSError as error:
        fail(f"--dump: {dump}: {error.strerror}", code=EXIT_USAGE)


def _bounded(text: bytes) -> bytes:
    if len(text) > DUMP_BYTES_MAX:
        fail(f"the config dump has more than {DUMP_BYTES_MAX:,} bytes", code=EXIT_FAILED)
    return text


def _wrong() -> frozenset[str]:
    from xds.cli.config_dump import WRONG

    return WRONG


def _counts(found: "list[Compared]") -> dict[str, int]:
    from xds.cli.config_dump import STATES

    states = [each.state for each in found]
    return {state: states.count(state) for state in STATES}


def _print(node: str, group: str, revision: int, found: "list[Compared]", *, verbose: bool) -> None:
    quiet = {"same", "unused", "static"}
    for each in found:
        if each.state in quiet and not verbose:
            continue
        versions = f"version {each.version or '–'}"
        if each.wanted_version and each.wanted_version != each.version:
            versions += f", wanted {each.wanted_version}"
        style = "red" if each.state in _wrong() else "dim"
        words = _WORDS.get(each.state, each.state)
        said = [f"{_short(each.type_url)}/{each.name}: {words}"]
        said += [versions] * bool(each.version or each.wanted_version) + [each.error] * bool(each.error)
        say("; ".join(said), style=style)
        for change in each.fields[:FIELDS_SHOWN_MAX]:
            for sign, colour, value in (("-", "red", change.before), ("+", "green", change.after)):
                if value is not None:
                    say(f"    {sign} {change.path}: {json_text(value)}", style=colour)
        if len(each.fields) > FIELDS_SHOWN_MAX:
            say(f"    and {len(each.fields) - FIELDS_SHOWN_MAX:,} more fields")
    numbers = counted(((number, _WORDS.get(state, state)) for state, number in _counts(found).items()), none="nothing")
    say("", f"{node} (group {group}, revision {revision}): {count(len(found), 'resource')}: {numbers}")
    if not found:
        warn("the config dump has no resources, and the group has none")


_WORDS = {
    "elsewhere": "not of this group",
    "unused": "not used",
    "static": "from its bootstrap",
    "unread": "can't be read",
}
