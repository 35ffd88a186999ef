"""The commands over the push API against a real server: the blocks of docs/pushing.md and docs/store.md, and errors."""

import asyncio
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from support import quick_xds
from support import resources as r
from support.server import XdsServer

from xds.model.types import WRAPPER_URL
from xds.sources.directory import DirectoryReader

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
Done = subprocess.CompletedProcess[str]


def blocks(page: str, language: str) -> list[str]:
    return [text for found, text in BLOCK.findall((ROOT / "docs" / page).read_text()) if found == language]


async def shell(script: str, *, cwd: Path, **env: str) -> Done:
    return await asyncio.to_thread(
        subprocess.run,
        ["bash", "-c", f"set -eu\n{script}"],
        cwd=cwd,
        env={
            "PATH": f"{quick_xds.program().parent}:{quick_xds.BIN}:{os.environ['PATH']}",
            "NO_COLOR": "1",
            "COLUMNS": "160",
            **env,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
async def server() -> AsyncIterator[XdsServer]:
    async with XdsServer(None, "--workers", "0") as started:
        await started.wait_ready()
        yield started


@pytest.fixture
def run(server: XdsServer, tmp_path: Path) -> Callable[[str], Awaitable[Done]]:
    """Run shell lines, with the server's addresses in place of the defaults."""
    address = f"127.0.0.1:{server.api_port}"

    async def run(script: str) -> Done:
        return await shell(script, cwd=tmp_path, XDS_PUSH_ADDRESS=address, USER="ann")

    return run


async def test_the_pages_commands_run_as_they_stand(server: XdsServer, run, tmp_path: Path) -> None:
    (tmp_path / "snapshots").symlink_to(ROOT / "snapshots")
    script = "\n".join(blocks("pushing.md", "sh")).replace("127.0.0.1:19000", f"127.0.0.1:{server.admin_port}")
    done = await run(script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "default: revision 1, 6 added" in done.stdout
    assert '"error"' not in done.stdout
    (program,) = blocks("pushing.md", "python")
    program = program.replace("127.0.0.1:18001", f"127.0.0.1:{server.api_port}")
    done = await run(f"python - <<'END'\n{program}\nEND")
    assert (done.returncode, done.stdout.split("\n")[1:2]) == (0, ["1s"]), done.stderr


async def test_the_stores_page_runs_once_the_server_is_stopped(server: XdsServer, run, tmp_path: Path) -> None:
    state = server.env["XDG_STATE_HOME"]
    (script,) = blocks("store.md", "sh")
    busy = await shell("xds store check", cwd=tmp_path, XDG_STATE_HOME=state)
    assert (busy.returncode, "in use" in busy.stderr) == (1, True)
    await run("xds apply -f " + str(ROOT / "snapshots" / "quickstart"))
    before = await server.admin("/v1/groups")
    await asyncio.to_thread(server.stop)
    done = await shell(script, cwd=tmp_path, XDG_STATE_HOME=state)
    assert done.returncode == 0, done.stderr
    assert "fine: 6 resources in 1 group, revision 1" in done.stdout
    again = await shell("xds store backup backup.db", cwd=tmp_path, XDG_STATE_HOME=state)
    assert (again.returncode, "exists already" in again.stderr) == (1, True)
    server.start()
    await server.wait_ready()
    after = await server.admin("/v1/groups")
    assert after.json()["groups"] == before.json()["groups"]
    assert after.headers["x-xds-epoch"] != before.headers["x-xds-epoch"]


async def test_apply_says_what_is_wrong_with_file_and_line_and_exits_1(run, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(
        'resources:\n- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster\n  nam: x\n'
    )
    done = await run("xds apply -f bad.yaml")
    assert done.returncode == 1
    assert "bad.yaml:3: " in done.stderr
    assert "did you mean name?" in done.stderr
    (tmp_path / "dangling.yaml").write_text(json.dumps(r.route("r", "none")))
    done = await run("xds apply -f dangling.yaml")
    assert (done.returncode, "clusters/none" in done.stderr) == (1, True)


async def test_exit_codes(run, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(r.static_cluster("a", 1)))
    assert (await run("xds apply -f a.json --expected-revision 5")).returncode == 3
    assert (await run("xds get clusters none")).returncode == 4
    assert (await run("xds rollback 99")).returncode == 4
    assert (await run("xds node none")).returncode == 4
    assert (await run("xds apply -f none.yaml")).returncode == 2
    assert (await run("xds get --token-file none")).returncode == 2


@pytest.mark.parametrize(
    "command", ["get", "status", "history", "watch", "groups", "diff 0", "delete clusters a", "rollback 0"]
)
async def test_a_token_is_not_sent_to_another_machine_in_clear(command: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    done = await shell(f"xds {command} --api xds.example:18001 --token-file token", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "the token would be sent in clear to xds.example:18001; give the CAs" in done.stderr


@pytest.mark.parametrize(
    ("content", "what"), [(b"", "is empty"), (b"\xff\xfe", "is not text"), (b"a\nb", "a header can't have")]
)
async def test_a_token_file_that_holds_no_token_is_told(content: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(content)
    done = await shell("xds get --api 127.0.0.1:1 --token-file token", cwd=tmp_path)
    assert (done.returncode, what in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr


async def test_arguments_that_are_no_text_are_told(run, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(r.static_cluster("a", 1)))
    for command in ("apply -f a.json --message", "apply -f a.json --author", "get clusters", "node", "get -g"):
        done = await run(f"xds {command} $'\\xff'")
        assert (done.returncode, "is not text" in done.stderr, "Traceback" in done.stderr) == (2, True, False), (
            done.stderr
        )


async def test_a_server_that_is_away_is_exit_5(tmp_path: Path) -> None:
    done = await shell("xds get --api 127.0.0.1:1", cwd=tmp_path)
    assert (done.returncode, "is `xds serve` running" in done.stderr) == (5, True)


async def test_apply_reads_standard_input_groups_of_a_directory_and_prunes(run, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(json.dumps(r.static_cluster("b", 1)))
    done = await run("cat b.json | xds apply -f - --group web --create-group -o json")
    assert json.loads(done.stdout) == {
        "revision": 1,
        "dry_run": False,
        "again": False,
        "rules_changed": True,
        "warnings": [],
        "groups": [
            {
                "group": "web",
                "changed": [{"type": "clusters", "name": "b", "change": "added"}],
                "unchanged": [],
            }
        ],
    }
    r.write_directory(tmp_path / "dir", [r.static_cluster("c", 1)])
    r.write_directory(tmp_path / "dir", [r.static_cluster("d", 1)], "web")
    done = await run("xds apply -f dir --prune && xds get -g web -o json && xds get -o yaml")
    assert done.returncode == 0, done.stderr
    assert '"name": "d"' in done.stdout
    assert '"name": "b"' not in done.stdout
    assert "name: c" in done.stdout


async def test_rules_come_with_a_directory_or_by_themselves(run, tmp_path: Path) -> None:
    r.write_directory(tmp_path / "dir", [r.static_cluster("c", 1)])
    r.write_directory(tmp_path / "dir", [r.static_cluster("d", 1)], "web")
    r.write_directory(tmp_path / "dir", [r.route("r", "elsewhere")], "web")
    rules = {
        "groups": {"web": {"extends": "default"}},
        "rules": [{"group": "web", "match": {"cluster": "w*"}}],
        "external": ["clusters/elsewhere"],
    }
    (tmp_path / "dir" / "groups.yaml").write_text(json.dumps(rules))
    done = await run("xds apply -f dir && xds groups && xds groups rules > told.yaml && xds groups -f told.yaml")
    assert done.returncode == 0, done.stderr
    assert 'web: nodes with {"cluster": "w*"}' in done.stdout
    (tmp_path / "odd.yaml").write_text("rules: [{group: none}]")
    done = await run("xds groups -f odd.yaml")
    assert (done.returncode, "none" in done.stderr) == (1, True)
    stale = await run("xds groups -f told.yaml --expected-revision 0")
    assert (stale.returncode, "expected revision 0" in stale.stderr) == (3, True)
    assert (await run("xds groups --expected-revision 0")).returncode == 2
    assert (await run("xds rollback 1 --expected-revision 0")).returncode == 3
    done = await run("xds groups -f missing.yaml")
    assert (done.returncode, "missing.yaml" in done.stderr) == (2, True)
    told = json.loads((await run("xds groups -o json > all.json && xds groups -f all.json -o json")).stdout)
    assert told["rules"] == rules | {"unmatched": "default"}


async def test_secrets_and_wrappers_are_shown_as_asked(run, tmp_path: Path) -> None:
    secret = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": "s",
        "generic_secret": {"secret": {"inline_string": "hush"}},
    }
    expiring = {"@type": WRAPPER_URL, "name": "a", "ttl": "5s", "resource": r.static_cluster("a", 1)}
    (tmp_path / "1.json").write_text(json.dumps([secret, expiring]))
    (tmp_path / "2.json").write_text(json.dumps(r.static_cluster("a", 2)))
    done = await run("xds apply -f 1.json && xds get && xds get -o json")
    assert ("hush" in done.stdout, "[redacted]" in done.stdout) == (False, True)
    assert any(line.split()[:2] == ["clusters", "a"] for line in done.stdout.splitlines())
    done = await run("xds get -o json --show-secrets > all.json && xds apply -f all.json && xds history -o json")
    assert '"name": "s"' not in done.stdout, "nothing was changed"
    assert "default: revision 1, 2 as they were" in done.stdout
    done = await run("xds apply -f 2.json && xds diff 1")
    assert '    - (wrapper).ttl: "5s"' in done.stdout


async def test_differences_are_shown_field_by_field(run, tmp_path: Path) -> None:
    (tmp_path / "a1.json").write_text(json.dumps(r.static_cluster("a", 1)))
    (tmp_path / "a2.json").write_text(json.dumps(r.static_cluster("a", 2)))
    done = await run(
        "xds apply -f a1.json -m one && xds apply -f a2.json -m two && xds diff 1 2 && xds history -o json"
    )
    lines = done.stdout.splitlines()
    assert "~ clusters/a" in lines
    place = "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value"
    assert (f"    - {place}: 1" in lines, f"    + {place}: 2" in lines) == (True, True)
    told = json.loads(done.stdout[done.stdout.index("{\n") :])["revisions"]
    assert [(each["revision"], each["author"], each["message"]) for each in told] == [
        (2, "ann", "two"),
        (1, "ann", "one"),
    ]


async def test_a_watch_prints_changes_as_they_are_made(server: XdsServer, run, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(r.static_cluster("a", 1)))
    await run("xds apply -f a.json -m first")
    done = await run("timeout 5 xds watch --from 0 -o json | head -1")
    told = json.loads(done.stdout)
    assert (told["revision"], told["message"], told["operations"][0]["name"]) == (1, "first", "a")


async def test_a_directory_is_applied_at_a_revision_as_a_whole(run, tmp_path: Path) -> None:
    r.write_directory(tmp_path / "dir", [r.static_cluster("c", 1)], "base")
    r.write_directory(tmp_path / "dir", [r.static_cluster("d", 1)], "web")
    rules = {"groups": {"web": {"extends": "base"}}, "rules": [{"group": "web"}], "external": ["clusters/x"]}
    (tmp_path / "dir" / "groups.yaml").write_text(json.dumps(rules))
    assert (await run("xds apply -f dir --expected-revision 1")).returncode == 3
    assert json.loads((await run("xds groups -o json")).stdout)["rules"]["groups"] == {}
    done = await run("xds apply -f dir --expected-revision 0")
    assert done.returncode == 0, done.stderr
    told = json.loads((await run("xds groups -o json")).stdout)
    assert (told["rules"]["groups"], told["rules"]["external"]) == ({"web": {"extends": "base"}}, ["clusters/x"])
    assert {each["name"]: each["revision"] for each in told["groups"]} == {"base": 1, "default": 0, "web": 1}


async def test_a_directory_of_several_groups_is_one_change_and_its_dry_run_says_the_same(
    server: XdsServer, run, tmp_path: Path
) -> None:
    """As ``xds serve`` reads it; an error in the last group leaves nothing of the others."""
    directory = ROOT / "snapshots" / "multi-group"
    (tmp_path / "dir").mkdir()
    for path in directory.iterdir():
        (tmp_path / "dir" / path.name).symlink_to(path)
    dry = await run("xds apply -f dir --dry-run -o json")
    assert dry.returncode == 0, dry.stderr
    assert json.loads((await run("xds history -o json")).stdout)["revisions"] == []
    made = await run("xds apply -f dir -o json")
    assert json.loads(made.stdout) == json.loads(dry.stdout) | {"revision": 1, "dry_run": False}
    (event,) = json.loads((await run("xds history -o json")).stdout)["revisions"]
    assert ({each["group"] for each in event["groups"]}, event["rules_changed"]) == (
        {"base", "prod", "prod-eu", "staging"},
        True,
    )
    r.write_directory(tmp_path / "dir", [r.static_cluster("fine", 1)], "aaa")
    r.write_directory(tmp_path / "dir", [r.route("bad", "none")], "zzz")
    for options in ("", "--dry-run", "--prune"):
        done = await run(f"xds apply -f dir {options}")
        assert (done.returncode, "clusters/none" in done.stderr, "nothing was changed" in done.stderr) == (
            1,
            True,
            True,
        )
    groups = json.loads((await run("xds groups -o json")).stdout)
    assert groups["revision"] == 1
    assert "aaa" not in {each["name"] for each in groups["groups"]}
    served = await asyncio.to_thread(_as_served, directory)
    assert {each["name"]: each["extends"] for each in groups["groups"]} == served


def _as_served(directory: Path) -> dict[str, str | None]:
    """Return the groups of a directory as ``xds serve`` reads it, and what each extends."""
    changeset = DirectoryReader(directory).read()
    assert changeset.groups is not None
    return {group: changeset.groups.extends.get(group) for group in changeset.upserts}


async def test_a_directory_without_groups_yaml_leaves_what_its_groups_extend(run, tmp_path: Path) -> None:
    r.write_directory(tmp_path / "dir", [r.static_cluster("d", 1)], "web")
    done = await run("xds groups create base && xds groups create web --extends base && xds apply -f dir")
    assert done.returncode == 0, done.stderr
    told = json.loads((await run("xds groups -o json")).stdout)
    assert told["rules"]["groups"] == {"web": {"extends": "base"}}
    assert (await run("xds groups delete web -y && xds apply -f dir")).returncode == 0, "it is created again"


async def test_a_misspelt_group_is_not_created(run, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(r.static_cluster("a", 1)))
    assert (await run("xds groups create prod && xds apply -f a.json -g prod")).returncode == 0
    for options in ("", "--dry-run", "--prune"):
        done = await run(f"xds apply -f a.json -g prodd {options}")
        assert (done.returncode, done.stdout) == (4, "")
        assert "there is no group 'prodd': did you mean 'prod'?" in done.stderr
        assert "--create-group" in done.stderr
    assert "prodd" not in (await run("xds groups")).stdout
    assert (await run("xds apply -f a.json -g prodd --create-group")).returncode == 0
    (tmp_path / "groups.yaml").write_text("groups: {named: {}}\nrules: [{group: named}]")
    done = await run("xds groups -f groups.yaml && xds apply -f a.json -g named")
    assert done.returncode == 0, "a rule names it"


async def test_an_expected_revision_is_that_of_the_group(run, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(r.static_cluster("a", 1)))
    (tmp_path / "b.json").write_text(json.dumps(r.static_cluster("b", 1)))
    done = await run("xds apply -f a.json -g one --create-group && xds apply -f a.json -g two --create-group")
    assert done.returncode == 0, done.stderr
    assert (await run("xds apply -f b.json -g one --expected-revision 1")).returncode == 0
    done = await run("xds apply -f b.json -g one --expected-revision 2")
    assert (done.returncode, "the group 'one' changed at revision 3" in done.stderr) == (3, True)
    assert (await run("xds apply -f a.json -f b.json -g two --expected-revision 2 --prune")).returncode == 0
    assert (await run("xds rollback 3 -g one --expected-revision 9")).returncode == 3
    told = json.loads((await run("xds get -g two -o json")).stdout)
    assert (told["revision"], told["changed_at"]) == (4, 4)


async def test_groups_are_deleted_only_when_nothing_is_in_the_way(run, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(r.static_cluster("a", 1)))
    await run("xds groups create base && xds groups create web --extends base && xds apply -f a.json -g base")
    for options in ("", "--yes", "--dry-run"):
        done = await run(f"xds groups delete base {options}")
        assert (done.returncode, "group web extends it" in done.stderr) == (1, True), done.stderr
    assert (await run("xds groups delete web")).stdout == "web: revision 4, no resources to change\nweb deleted\n"
    done = await run("xds groups delete base")
    assert (done.returncode, "has 1 cluster; nothing was changed" in done.stderr, "--yes" in done.stderr) == (
        1,
        True,
        True,
    )
    done = await run("xds groups delete base --dry-run")
    assert done.stdout.splitlines() == [
        "  - clusters/a",
        "base: revision 4, would change: 1 removed",
        "base would be deleted",
    ]
    assert (await run("xds groups delete base --yes")).returncode == 0
    done = await run("xds groups delete base --yes")
    assert (done.returncode, "there is no group 'base'" in done.stderr) == (4, True)
    done = await run("xds groups delete default")
    assert (done.returncode, "can't be removed" in done.stderr) == (1, True)
    done = await run("xds groups create x --extends none")
    assert (done.returncode, "there is no group 'none'" in done.stderr) == (4, True)
    done = await run("xds groups create default")
    assert (done.returncode, "is there already" in done.stderr) == (1, True)
    done = await run("xds groups --api 127.0.0.1:1 delete x")
    assert (done.returncode, "write it after delete" in done.stderr) == (2, True), "it would go to another server"


async def test_directories_that_are_applied_at_once_do_not_undo_each_others_groups(run, tmp_path: Path) -> None:
    for name in ("one", "two"):
        r.write_directory(tmp_path / name, [r.static_cluster("c", 1)], name)
        r.write_directory(tmp_path / name, [r.route("r", f"{name}-elsewhere")], name)
        external = [f"clusters/{each}-elsewhere" for each in ("one", "two")]
        groups = {"groups": {name: {"extends": "default"}}, "external": external}
        (tmp_path / name / "groups.yaml").write_text(json.dumps(groups))
    done = await run("xds apply -f one & xds apply -f two && wait $!")
    assert done.returncode == 0, done.stderr
    told = json.loads((await run("xds groups -o json")).stdout)
    assert told["rules"]["groups"] == {"one": {"extends": "default"}, "two": {"extends": "default"}}


async def test_a_store_that_is_not_there_is_not_made_by_a_check(tmp_path: Path) -> None:
    for url in ("", "sqlite:///none.db"):
        done = await shell(f"xds store check --store '{url}'", cwd=tmp_path, XDG_STATE_HOME=str(tmp_path / "state"))
        assert (done.returncode, "does not exist" in done.stderr, done.stdout) == (1, True, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.envoy
async def test_what_a_real_envoy_refuses_is_not_sent(run, tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    base.write_text(json.dumps([r.static_cluster("a", 1), r.listener("l", 1, inline=r.route("x", "a"))]))
    assert (await run("xds apply -f base.yaml --validate-with-envoy")).returncode == 0
    bad = tmp_path / "bad.yaml"
    bad.write_text(json.dumps([r.static_cluster("b", 1), r.listener("m", 1, inline=r.route("y", "b"))]))
    refused = await run("xds apply -f bad.yaml --validate-with-envoy")
    assert refused.returncode == 1
    assert "listeners/m" in refused.stderr
    assert "has a duplicate address: listeners/l has it too" in refused.stderr
    assert "refused by Envoy, nothing was sent: 1 problem" in refused.stderr
    assert (await run("xds get clusters/b")).returncode == 4
    assert (await run("xds apply -f bad.yaml")).returncode == 0


async def test_nothing_to_apply_is_an_error_and_changes_nothing(run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for options in ("", "--prune", "-g web"):
        done = await run(f"xds apply -f empty {options}")
        assert (done.returncode, "no resources in empty; nothing was sent" in done.stderr) == (2, True), done.stderr


async def test_all_groups_are_read_as_they_were_at_a_revision(run, tmp_path: Path) -> None:
    r.write_file(tmp_path / "a.yaml", [r.static_cluster("a", 1)])
    await run("xds apply -f a.yaml; xds apply -f a.yaml -g later --create-group")
    for output in ("table", "json"):
        done = await run(f"xds get -A --revision 1 -o {output}")
        assert (done.returncode, done.stderr) == (0, "")
        assert ("later" in done.stdout, "default" in done.stdout) == (False, True)
    done = await run("xds get -A -g later")
    assert (done.returncode, "give one of them" in done.stderr) == (2, True)
