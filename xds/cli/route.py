"""``xds route``: which way a request takes through the resources of a group."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xds.cli.completion import complete_group
from xds.cli.output import EXIT_FAILED, EXIT_USAGE, count, fail, problem_lines, say
from xds.cli.talk import (
    DEFAULT_API,
    EXIT_NOT_FOUND,
    Api,
    ApiCa,
    Output,
    TokenFile,
    examples_of,
    print_as,
    talk,
)

if TYPE_CHECKING:
    from xds.client import Client
    from xds.routing.request import Request
    from xds.routing.resources import Resources

EPILOG = examples_of(
    "xds route default http://shop.example/cart --header 'x-canary: yes'",
    "xds route default https://10.0.0.1:8443/ --listener ingress -v",
    "xds route sidecars tls://db.example:5432 --revision 41 -o json",
    "xds route default http://shop.example/ --file snapshots/quickstart",
)
Json = dict[str, Any]
ENDPOINTS_SHOWN_MAX = 10


def route(
    group: Annotated[str, typer.Argument(help="The group of nodes.", autocompletion=complete_group)],
    url: Annotated[str, typer.Argument(help="http, https, grpc or grpcs; tcp and tls for connections without HTTP.")],
    method: Annotated[str, typer.Option("--method", "-X", help="The method. Default: GET, or POST for gRPC.")] = "",
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="NAME: VALUE", help="A header; repeatable.")
    ] = None,
    listener: Annotated[str, typer.Option(help="The listener's name. Default: the one at the URL's port.")] = "",
    address: Annotated[str, typer.Option(metavar="IP", help="Where the connection goes to.")] = "",
    source: Annotated[
        str, typer.Option(metavar="IP[:PORT]", help="Where it comes from, if filter chains look at that.")
    ] = "",
    revision: Annotated[int | None, typer.Option("--revision", "-r", min=0, help="As it was at that revision.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="DIR", help="Of a directory instead of a server.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also what does not take it, and why.")] = False,
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Print which listener, filter chain, route, cluster and endpoints a request would take, and what decided each.

    The resources of the group are evaluated as Envoy does it; no request is sent. What they do not decide is said too:
    scripts, other services that are asked, shares of requests, the answers of DNS, the health that Envoy finds.
    """
    asked: Json = {
        "method": method,
        "headers": header or [],
        "listener": listener,
        "address": address,
        "source": source,
    }
    if file is not None:
        if revision is not None:
            fail("--revision is for a server's history: leave out --file", code=EXIT_USAGE)
        found = _of_directory(file, group, url, asked)
    else:

        async def work(client: "Client") -> Json:
            return await client.route(url, group=group, revision=revision, **asked)

        found = talk(api, token_file, ca, work)
    if output != "table":
        print_as(output, found)
    else:
        _print(found, verbose=verbose)


def _of_directory(directory: Path, group: str, url: str, asked: Json) -> Json:
    from xds.cli.schema import choose_schemas
    from xds.model.problem import ChangesetRejectedError
    from xds.routing.answer import answer_json
    from xds.routing.evaluate import find_way
    from xds.routing.request import read_request

    try:
        request: Request = read_request(url, **asked)
    except ChangesetRejectedError as error:
        fail(*problem_lines(error.problems), code=EXIT_USAGE)
    choose_schemas(None)  # those of XDS_SCHEMAS
    return {
        "group": group,
        "revision": None,
        **answer_json(find_way(_resources(directory, group), request, hides_secrets=False)),
    }


def _resources(directory: Path, group: str) -> "Resources":
    from xds.model.catalog import Catalog
    from xds.model.problem import ChangesetRejectedError
    from xds.routing.resources import Resources
    from xds.schema.pool import load_schema
    from xds.sources.directory import DirectoryLimits, DirectoryReader
    from xds.sources.tree import TreeLimits

    if not directory.is_dir():
        fail(f"--file: {directory} is not a directory", code=EXIT_USAGE)
    catalog = Catalog()
    try:
        catalog.apply(DirectoryReader(directory, limits=DirectoryLimits(tree=TreeLimits(links_outside=True))).read())
    except ChangesetRejectedError as error:
        fail(f"{count(len(error.problems), 'problem')} in {directory}", code=EXIT_FAILED, problems=error.problems)
    if group not in catalog.snapshots:
        fail(f"{directory} has no group {group!r}: {', '.join(sorted(catalog.snapshots))}", code=EXIT_NOT_FOUND)
    return Resources.seen(load_schema(), catalog.snapshots[group])


def _print(found: Json, *, verbose: bool) -> None:
    width = max((len(each["stage"]) for each in found["steps"]), default=0)
    for step in found["steps"]:
        say(f"{step['stage']:<{width}}  {step['what']}: {step['because']}")
        for passed in step["passed"] if verbose else ():
            say(f"{'':<{width}}    not {passed['what']}: {passed['because']}", style="dim")
    outcome = found["outcome"]
    say("", _sentence(outcome), style="bold")
    if outcome.get("location") and outcome["location"] not in outcome["what"]:
        say(f"  location: {outcome['location']}")
    for key in ("path", "host"):
        if outcome.get(key):
            say(f"  {key} upstream: {outcome[key]}")
    for key, value in outcome.get("about", {}).items():
        say(f"  {key}: {value}")
    if "clusters" not in outcome and outcome.get("body"):
        say(f"  body: {outcome['body'][:200]}")
    for each in outcome.get("clusters", ()):
        _print_cluster(each, indent="  ")
    if found["doubts"]:
        say("", "not decided by the resources:")
        for doubt in found["doubts"]:
            say(f"  {doubt['at']}: {doubt['what']}", style="yellow")


def _sentence(outcome: Json) -> str:
    code = outcome.get("status")
    status = f" ({code})" if code and str(code) not in outcome["what"] else ""
    return f"{outcome['what'][:1].upper()}{outcome['what'][1:]}{status}"


def _print_cluster(cluster: Json, *, indent: str) -> None:
    share = f" {cluster['share']:.2%}" if cluster["share"] < 1 else ""
    host = f"host upstream {cluster['host']}" if cluster.get("host") else ""
    about = ", ".join(filter(None, (cluster.get("kind"), cluster.get("policy"), host, cluster.get("note"))))
    say(f"{indent}{cluster['name']}{share}: {about or 'no endpoints'}")
    for each in cluster.get("endpoints", ())[:ENDPOINTS_SHOWN_MAX]:
        parts = [each["address"], each["health"], f"weight {each['weight']}"]
        parts += [f"priority {each['priority']}"] * bool(each["priority"])
        parts += [each["locality"]] * bool(each["locality"])
        say(f"{indent}  {'  '.join(parts)}")
    if (more := int(cluster.get("endpoints_total", 0)) - ENDPOINTS_SHOWN_MAX) > 0:
        say(f"{indent}  and {more:,} more")
    for each in cluster.get("through", ()):
        _print_cluster(each, indent=f"{indent}  ")
