"""``xds get``, ``diff``, ``history``, ``show``, ``watch`` and the shell's completion, as a new user tries them."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from support import resources as r
from support.server import XdsServer

from tests.cli.test_push_commands import Done, shell
from xds.cli.nodes import joined
from xds.cli.targets import WrongTargetError, targets_of
from xds.client import Client, GroupChanges
from xds.client.results import Nodes
from xds.model.types import ALIASES, SHORT_NAMES, TYPE_PREFIX, type_url_of

CLUSTER_URL = TYPE_PREFIX + "envoy.config.cluster.v3.Cluster"
Run = Callable[[str], Awaitable[Done]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[XdsServer]:
    """A server with three revisions: groups ``base`` and ``web``; ``a`` changed and ``b`` removed in ``base``."""
    async with XdsServer(None, "--workers", "0") as started:
        await started.wait_ready()
        async with Client(f"127.0.0.1:{started.api_port}") as client:
            both = [r.static_cluster("a", 1), r.static_cluster("b", 1)]
            groups = {"base": GroupChanges(upsert=both), "web": GroupChanges(upsert=[r.static_cluster("c/d", 1)])}
            await client.apply_groups(groups, rules={"groups": {"web": {"extends": "base"}}})
            await client.apply(upsert=[r.static_cluster("a", 2)], group="base")
            await client.apply(remove=[("cluster", "b")], group="base")
        yield started


@pytest.fixture
def run(server: XdsServer, tmp_path: Path) -> Run:
    async def run(script: str) -> Done:
        return await shell(script, cwd=tmp_path, XDS_PUSH_ADDRESS=f"127.0.0.1:{server.api_port}", USER="ann")

    return run


def test_what_is_missing_of_any_page_of_nodes_is_missing_of_the_list() -> None:
    first = Nodes(nodes=(), missing_workers=("worker 1",), problems=("one",), next="2", missing_replicas=("b: silent",))
    last = Nodes(nodes=(), missing_workers=("worker 1", "worker 2"), problems=("two",), total=5)
    told = joined([first, last])
    assert (told.missing_workers, told.missing_replicas) == (("worker 1", "worker 2"), ("b: silent",))
    assert (told.problems, told.next, told.total) == (("one", "two"), "", 5)


def test_every_type_has_the_names_that_users_try() -> None:
    for short, url in SHORT_NAMES.items():
        message = url.rpartition(".")[2]
        singular = short.removesuffix("s")
        for word in (short, short.upper(), short.replace("-", "_"), singular, url, url.removeprefix(TYPE_PREFIX)):
            assert type_url_of(word) == url, word
        assert message == "RouteConfiguration" or type_url_of(message) == url
    assert type_url_of("RouteConfiguration") == SHORT_NAMES["routes"]
    services = {"cds": "clusters", "eds": "endpoints", "lds": "listeners", "rds": "routes", "sds": "secrets"}
    assert {word: ALIASES[word] for word in services} == {word: SHORT_NAMES[short] for word, short in services.items()}


@pytest.mark.parametrize(
    ("arguments", "targets"),
    [
        ([], []),
        (["cluster"], [("cluster", "")]),
        (["clusters,eds"], [("clusters", ""), ("eds", "")]),
        (["clusters", "a", "b/c", "a"], [("clusters", "a"), ("clusters", "b/c")]),
        (["clusters/a", "eds/b/c"], [("clusters", "a"), ("eds", "b/c")]),
        ([CLUSTER_URL], [(CLUSTER_URL, "")]),
        ([CLUSTER_URL, "a/b"], [(CLUSTER_URL, "a/b")]),
        ([f"{CLUSTER_URL}/a/b"], [(CLUSTER_URL, "a/b")]),
    ],
)
def test_arguments_name_types_and_resources(arguments: list[str], targets: list[tuple[str, str]]) -> None:
    assert targets_of(arguments) == targets


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["clusters", "endpoints"], "clusters,endpoints"), (["clusters/a", "b"], "'b' is not TYPE/NAME")],
)
def test_arguments_that_mix_both_ways_are_refused(arguments: list[str], told: str) -> None:
    with pytest.raises(WrongTargetError, match=told):
        targets_of(arguments)


async def test_get_takes_what_users_write(run: Run) -> None:
    for words in ("clusters", "cluster", "cds", "Cluster", CLUSTER_URL):
        done = await run(f"xds get {words} -g base")
        assert "base: revision 3, 1 resource\n" in done.stdout, done.stderr
    done = await run("xds get cluster a -g base; xds get cds/a -g base -o json; xds get cds/a clusters/c/d -A -o json")
    one, *documents = _documents(done.stdout)
    assert one is None, "the first is YAML"
    assert [(each["group"], [x["name"] for x in each["resources"]]) for each in documents] == [
        ("base", ["a"]),
        ("base", ["a"]),
        ("web", ["c/d"]),
    ]
    assert {tuple(each) for each in documents} == {("group", "revision", "changed_at", "resources")}
    every = await run("xds get -A")
    assert [line.split()[:3] for line in every.stdout.splitlines()[1:3]] == [
        ["base", "clusters", "a"],
        ["web", "clusters", "c/d"],
    ]


def _documents(text: str) -> list[dict | None]:
    """Return the JSON documents of an output; None for what comes before the first."""
    found: list[dict | None] = []
    decoder = json.JSONDecoder()
    if not text.startswith("{"):
        found.append(None)
        text = text[text.index("\n{") + 1 :]
    while text:
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:].lstrip()
    return found


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        ("get clustr", 2, "did you mean cluster?"),
        ("get a/b", 2, "'a' is not a resource type"),
        ("get clusters aa -g base", 4, "did you mean 'a'?"),
        ("get clusters a -g web", 4, "it is in 'base', which the group extends"),
        ("get -g bas", 4, "did you mean 'base'?"),
        ("get --revision 99", 4, "does not exist yet"),
        ("diff 99", 4, "does not exist yet"),
        ("diff 1 -g bas", 4, "did you mean 'base'?"),
        ("history -g bas", 4, "did you mean 'base'?"),
        ("show 99", 4, "does not exist yet"),
        ("show 0", 2, "greater than or equal to 1"),
        ("watch -g bas", 4, "did you mean 'base'?"),
        ("watch --from 99", 4, "does not exist yet"),
        ("nodes -g bas", 4, "did you mean 'base'?"),
        ("nodes --state odd", 2, "accepted"),
        ("nodes --cursor odd", 2, "this is no cursor"),
        ("explain none routes", 2, "write TYPE/NAME"),
        ("node none", 4, "no node 'none' is connected"),
        ("get --nope", 2, "No such option"),
        ("nope", 2, "No such command"),
        ("apply -f none.yaml", 2, "No such file"),
        ("apply", 2, "Missing option"),
        ("delete clusters", 2, "has no name"),
        ("delete clustr a", 1, "did you mean cluster?"),
        ("rollback 99", 4, "does not exist yet"),
        ("rollback 1 -g bas", 4, "did you mean 'base'?"),
        ("groups delete bas", 4, "did you mean 'base'?"),
        ("groups -f none.yaml", 2, "No such file"),
        ("store check --store odd", 2, "is not a store"),
        ("store backup b.db --store sqlite:///none.db", 1, "does not exist"),
    ],
)
async def test_a_wrong_word_is_told_in_text_and_as_json_with_one_exit_code(
    run: Run, command: str, code: int, told: str
) -> None:
    done = await run(f"xds {command} -o json")
    (line,) = done.stderr.splitlines()
    error = json.loads(line)
    assert (done.returncode, done.stdout, error["exit_code"]) == (code, "", code)
    assert error.keys() == {"error", "hints", "problems", "exit_code"}
    assert told in " ".join([error["error"], *error["hints"], *(each["hint"] for each in error["problems"])])
    is_write = command.partition(" ")[0] in ("apply", "delete", "rollback", "groups")
    assert is_write or "changed" not in line, "a read changes nothing anyway"
    if command in ("get clustr", "delete clustr a"):
        as_text = await run(f"xds {command}")
        assert (as_text.returncode, as_text.stdout, told in as_text.stderr) == (code, "", True)


async def test_added_changed_and_removed_are_told_apart(run: Run) -> None:
    done = await run(
        "xds diff 1 -g base; xds rollback 1 -g base --dry-run; xds show 1; xds history -g base; "
        "timeout 3 xds watch --from 1 -g base || true"
    )
    lines = done.stdout.splitlines()
    for line in (
        "~ clusters/a",
        "- clusters/b",
        "base: 2 resources differ: 1 changed, 1 removed",
        "  + clusters/b",
        "  ~ clusters/a",
        "base: revision 3, would change: 1 added, 1 changed",
        "+ base  clusters/a",
        "+ web  clusters/c/d",
        "~ groups and rules",
        "    ~ base  clusters/a",
        "    - base  clusters/b",
    ):
        assert line in lines, line
    rows = [line.split() for line in lines if " base " in line and line.strip()[:1].isdigit()]
    assert [row[3:] for row in rows] == [["base", "-1"], ["base", "~1"], ["base", "+2,", "web", "+1,", "rules"]]


async def test_json_has_what_the_tables_have(run: Run) -> None:
    done = await run(
        "xds history -o json; xds show 2 -o json; xds diff 2 -g base -o json; xds groups -o json; xds nodes -o json; "
        "xds node none -o json 2>/dev/null || true"
    )
    history, shown, diff, groups, status = (each or {} for each in _documents(done.stdout))
    assert [(each["revision"], each["groups"], each["rules_changed"]) for each in history["revisions"]] == [
        (3, [{"group": "base", "added": 0, "changed": 0, "removed": 1}], False),
        (2, [{"group": "base", "added": 0, "changed": 1, "removed": 0}], False),
        (
            1,
            [
                {"group": "base", "added": 2, "changed": 0, "removed": 0},
                {"group": "web", "added": 1, "changed": 0, "removed": 0},
            ],
            True,
        ),
    ]
    (change,) = shown["differences"]
    assert (change["group"], change["name"], change["change"], len(change["fields"])) == ("base", "a", "changed", 1)
    assert (shown["revision"], shown["rules"]) == (2, [])
    assert [(each["name"], each["change"]) for each in diff["differences"]] == [("b", "removed")]
    assert groups["groups"][0] == {
        "name": "base",
        "extends": None,
        "kept_by": "pushes",
        "resources": {"clusters": 1},
        "revision": 3,
    }
    assert groups["rules"]["groups"] == {"web": {"extends": "base"}}
    assert (status["nodes"], status["states"]) == ([], {"accepted": 0, "pending": 0, "rejected": 0, "gone": 0})


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("get clu", ["clusters"]),
        ("get clusters ", ["a"]),
        ("get clusters/", ["clusters/a"]),
        ("get -g ", ["base", "default", "web"]),
        ("history --group b", ["base"]),
        ("groups delete w", ["web"]),
        ("groups create x --extends b", ["base"]),
        ("delete --group web cds c", ["c/d"]),
        ("node ", []),
    ],
)
async def test_the_shell_completes_from_the_server(server: XdsServer, words: str, offered: list[str]) -> None:
    if "clusters" in words:
        words = f"{words.partition(' ')[0]} --group base {words.partition(' ')[2]}"
    assert await _completed(words, f"127.0.0.1:{server.api_port}") == offered


async def test_completion_without_a_server_is_silent(tmp_path: Path) -> None:
    for words in ("get clusters ", "get -g ", "node "):
        assert await _completed(words, "127.0.0.1:1") == []
    assert await _completed("get lis", "127.0.0.1:1") == ["listeners"]


async def _completed(words: str, api: str) -> list[str]:
    line = f"xds {words}"
    at = str(len(line.split(" ")) - 1)
    env = {"_XDS_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": at, "XDS_PUSH_ADDRESS": api}
    done = await shell("xds", cwd=Path("/"), **env)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()
