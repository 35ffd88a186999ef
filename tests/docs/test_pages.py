"""Every command of the documentation runs as its page has it, or is listed here with the reason why not."""

import os
import re
import shlex
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from support.etcd import etcd_binary
from support.page_shell import PageShell
from support.pages import ROOT, Block, blocks, pages
from support.toolchains import without

from xds.cli.main import command_line

RUN_HERE = {
    "README.md": (),
    "docs/tutorial.md": (),
    "docs/walk-through.md": (),
    "docs/how-to/tls.md": ("openssl",),
    "docs/how-to/secrets.md": (),
    "docs/how-to/access.md": (),
    "docs/how-to/replicas.md": ("etcd", "etcdctl"),
    "docs/how-to/prometheus.md": ("prometheus", "promtool"),
    "docs/how-to/upgrading.md": (),
    "docs/how-to/from-files.md": (),
    "docs/how-to/route.md": (),
    "docs/how-to/asking.md": (),
}
"""Pages whose blocks a reader at the terminal runs, and the programs that they need besides our own."""
RUN_ELSEWHERE = {
    "docs/embedding.md": "tests/test_embedding.py",
    "docs/fleet.md": "tests/fleet/test_page.py",
    "docs/pushing.md": "tests/cli/test_push_commands.py",
    "docs/store.md": "tests/cli/test_push_commands.py",
}
NOT_RUN = {
    ("docs/operating.md", "xds serve DIR --listen 0.0.0.0:18000"): "four ways to write one setting, tests/cli has them",
    ("docs/operating.md", "xds serve DIR --listen 0.0.0.0:18000 --tls-cert"): "how-to/tls.md runs it with certificates",
    ("docs/how-to/tls.md", "xds serve DIR"): "tests/transport/test_client_identities.py serves trust domains",
    ("docs/pushing.md", "xds serve"): "the page's test has a server of its own",
    ("docs/pushing.md", "xds serve --api 0.0.0.0:18001"): "how-to/tls.md runs it with certificates",
    ("docs/pushing.md", "curl --cacert ca.pem"): "how-to/tls.md runs it with certificates",
    (
        "docs/how-to/access.md",
        "xds serve --api-tls-cert",
    ): "tests/api/test_client_certificates.py does so",
    ("docs/store.md", "xds serve --listen 127.0.0.1:18000"): "how-to/replicas.md runs it with an etcd",
    ("docs/tutorial.md", "make setup"): "makes the environment that the tests run in",
    ("docs/walk-through.md", "make setup"): "makes the environment that the tests run in",
    ("docs/how-to/traces.md", "OTEL_EXPORTER_OTLP_ENDPOINT"): "tests/telemetry/test_traces.py has a receiver",
    ("docs/how-to/upgrading.md", "pip install --upgrade"): "would change the environment that the tests run in",
    (
        "docs/how-to/node-identity.md",
        "xds bootstrap --node-id web-1",
    ): "tests/envoy/test_tokens.py runs an Envoy with it",
    (
        "docs/how-to/node-identity.md",
        "xds bootstrap --node-id web-1 --cluster shop --server cp.example:18000 --tls-ca /etc/xds/ca.pem --token-file "
        "/var/run/secrets/xds/token --token-sds /etc/envoy/token.yaml --print-token-sds",
    ): "tests/cli/test_bootstrap_command.py prints it",
    ("docs/how-to/secrets.md", "xds store encrypt --store etcd"): "tests/store/test_sealed.py encrypts an etcd",
    ("docs/how-to/docker.md", "docker compose up"): "needs a container engine; tests/compose runs what the file says",
    ("docs/how-to/docker.md", "xds status"): "needs the containers",
    ("docs/how-to/docker.md", "docker compose kill xds-1"): "needs a container engine; tests/compose does the same",
    ("docs/how-to/docker.md", "docker compose down"): "needs a container engine",
    ("docs/how-to/docker.md", "docker build"): "needs a container engine; tests/compose/test_image.py does the same",
    ("docs/how-to/docker.md", "docker run"): "needs a container engine; tests/compose/test_image.py does the same",
    ("docs/how-to/route.md", "xds config web-0 --exec"): "tests/cli/test_config_command.py runs another command so",
    ("docs/how-to/route.md", "xds apply -f routes.yaml --wait"): "tests/cli/test_wait_command.py waits so",
    ("docs/how-to/page.md", "xds serve"): "tests/page has a server and a browser",
    ("docs/how-to/systemd.md", "useradd"): "would change the machine",
    ("docs/how-to/systemd.md", "systemd-analyze"): "needs systemd as init; test_systemd.py runs what the unit says",
    ("docs/how-to/from-go-control-plane.md", "go run"): "test_go_program.py builds and runs the program",
    ("docs/how-to/from-go-control-plane.md", "xds envoy"): "compares with a server of the reader's",
    ("docs/how-to/validating.md", "xds validate snapshots/quickstart"): "tests/validation has an Envoy judge groups",
    ("docs/how-to/schema.md", "xds schema show"): "tests/cli/test_schema_command.py runs it",
    ("docs/how-to/schema.md", "xds validate DIR --schema /usr/local/bin/envoy"): "test_schema_command.py has a schema",
    ("docs/how-to/schema.md", "protoc --include_imports"): "test_schema_command.py makes such a set and serves with it",
    (
        "docs/how-to/schema.md",
        "xds schema diff /usr/local/bin/envoy-1.38",
    ): "test_schema_command.py makes an older schema",
    ("docs/releasing.md", ".venv/bin/uv pip install"): "installs other Envoys and runs all their tests",
    ("docs/releasing.md", "make release"): "builds and installs for a minute; test_package.py does it to the wheel",
    ("docs/releasing.md", "git tag"): "would tag the repository",
}
"""Of each block that is not run: its page, how it begins, and why."""
GENERATED = "docs/reference/"
"""Their blocks are the examples of --help."""
LANGUAGES = {"sh", "console", "text", "yaml", "json", "python", "go", "ini"}
INLINE = re.compile(r"`(xds [^`\n]+)`")


def all_blocks() -> list[Block]:
    return [block for page in pages() for block in blocks(page)]


@pytest.mark.timeout(300)
@pytest.mark.envoy
@pytest.mark.slow
@pytest.mark.parametrize("page", RUN_HERE)
def test_the_commands_of_a_page_run_as_they_stand(page: str, tmp_path: Path) -> None:
    for program in RUN_HERE[page]:
        if program == "etcd":
            etcd_binary()
        elif shutil.which(program) is None:
            without(FileNotFoundError(f"there is no {program}"))
    with PageShell(tmp_path) as shell:
        if page == "README.md":
            for name in ("Makefile", ".venv", ".ci"):
                (tmp_path / name).symlink_to(ROOT / name)
            (tmp_path / "xds").mkdir(exist_ok=True)
            for name in ("pyproject.toml", "requirements.lock", "hatch_build.py", "xds/version.py"):
                shutil.copy(ROOT / name, tmp_path / name)
                os.utime(tmp_path / name, (0, 0))  # older than .venv: a test must not set that up again
        shell.run(blocks(page))


def test_every_block_is_run_or_listed() -> None:
    ran = {*RUN_HERE, *RUN_ELSEWHERE}
    strays = [block.place for block in all_blocks() if block.language == "sh" and block.page not in ran]
    assert strays == [], "say in this file what runs them"
    assert all((ROOT / test).exists() for test in RUN_ELSEWHERE.values())
    found = {
        (block.page, begin)
        for block in all_blocks()
        if block.language == "console" and not block.page.startswith(GENERATED)
        for begin in [_beginning(block)]
    }
    assert found == set(NOT_RUN)


def _beginning(block: Block) -> str:
    """Return how the block is listed, or else its whole first line."""
    listed = [begin for page, begin in NOT_RUN if page == block.page and block.text.startswith(begin)]
    return max(listed, key=len, default=block.text.splitlines()[0])


def test_every_block_says_its_language() -> None:
    assert [block.place for block in all_blocks() if block.language not in LANGUAGES] == []


def test_commands_in_pages_have_the_options_that_the_program_has() -> None:
    wrong = [f"{place}: {what}" for place, script in _scripts() for what in _problems(script)]
    assert wrong == []


def test_the_check_of_options_finds_what_is_wrong() -> None:
    assert list(_problems("xds serve DIR --lisen 1:2 && xds frobnicate")) == ["--lisen", "frobnicate"]
    assert list(_problems("A=b exec .venv/bin/xds store check --x=1 | grep -v --y")) == ["--x"]
    assert list(_problems("docker run x xds-control-plane serve --nope")) == ["--nope"]
    assert list(_problems("curl -d '{\n  it' # don't\nxds get -o json \\\n  --no")) == ["--no"]


def _scripts() -> Iterator[tuple[str, str]]:
    for page in pages():
        for code in INLINE.finditer((ROOT / page).read_text()):
            yield page, code[1]
        for block in blocks(page):
            if block.language in ("sh", "console"):
                yield block.place, block.text


@cache
def _program() -> Any:
    return typer.main.get_command(command_line())


def _problems(script: str) -> Iterator[str]:
    """Iterate over the subcommands and options in a shell script that ``xds`` does not have."""
    without_comments = re.sub(r"(^|\s)#.*$", "", script.replace("\\\n", " "), flags=re.MULTILINE)
    words = shlex.shlex(without_comments, posix=True, punctuation_chars="();<>|&\n")
    words.whitespace, words.whitespace_split, words.commenters = " \t", True, ""
    command: Any = None
    begins, before, word = True, "", ""
    for following in words:
        before, word = word, following
        if set(word) <= set("();<>|&\n"):
            command, begins = None, True
        elif command is None:
            is_ours = begins and word.rpartition("/")[2] == "xds"
            if is_ours or (before, word) == ("xds-control-plane", "serve"):
                command = _program() if is_ours else _program().commands[word]
            begins = begins and (word == "exec" or re.match(r"\w+=", word) is not None)
        elif word == "--":
            command = None
        elif word.startswith("-"):
            known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
            if word.partition("=")[0] not in known | {"--help", "-h", "-"}:
                yield word.partition("=")[0]
        elif hasattr(command, "commands") and not before.startswith("-"):
            if word not in command.commands and word not in ("COMMAND", "…"):
                yield word
            command = command.commands.get(word)


def test_the_page_on_docker_has_the_services_and_ports_of_the_compose_file() -> None:
    page = (ROOT / "docs/how-to/docker.md").read_text()
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    named = re.findall(r"^docker compose \w+(?: --[\w-]+)*(?: ([\w-]+))?$", page, re.MULTILINE)
    assert {name for name in named if name} <= set(services)
    published = {port.split(":")[1] for service in services.values() for port in service.get("ports", ())}
    rows = re.findall(r"^\| ([\d, ]+) \|", page, re.MULTILINE)
    assert {port for row in rows for port in row.split(", ")} == published
    assert "HEALTHCHECK" in (ROOT / "Dockerfile").read_text()
