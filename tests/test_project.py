"""What surrounds the code: workflows, hooks, forms, decisions and links name only what there is.

Workflows run on GitHub alone. What can be known without it is held here: that files parse, that each action is pinned,
that each command exists.
"""

import os
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
PAGES = sorted(
    path
    for where in (".", ".github", ".github/ISSUE_TEMPLATE", "docs", "docs/decisions", "bench", "snapshots")
    for path in (ROOT / where).glob("*.md")
)

RUNNER_COMMANDS = {"gh"}
"""What GitHub's machines have and this one need not."""
LINK = re.compile(r"(?<!!)\[[^]]*]\((?P<target>[^)\s]+)\)")


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def steps(workflow: Path) -> Iterator[dict[str, Any]]:
    for job in load(workflow)["jobs"].values():
        yield from job.get("steps", ())


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def is_there(command: str) -> bool:
    program, *arguments = command.split()
    if program == "make":
        return arguments[0] in make_targets()
    here = Path(sys.executable).parent / Path(program).name if program.startswith(".venv/bin/") else ROOT / program
    return program in RUNNER_COMMANDS or os.access(here, os.X_OK)


def test_there_are_workflows_forms_and_decisions() -> None:
    assert [path.name for path in WORKFLOWS if path.name in ("ci.yml", "release.yml")] == ["ci.yml", "release.yml"]
    assert len(FORMS) == 2
    assert len(DECISIONS) >= 10


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_unless_a_job_says_otherwise(workflow: Path) -> None:
    assert load(workflow)["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit_with_their_version_beside_it(workflow: Path) -> None:
    used = re.findall(r"^\s*(?:- )?uses: (.+)$", workflow.read_text(), re.MULTILINE)
    local = [each for each in used if each.startswith("./")]
    assert [each for each in local if not (ROOT / each).is_file()] == []
    pinned = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
    assert [each for each in used if each not in local and not pinned.fullmatch(each)] == []


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_calls_commands_that_exist(workflow: Path) -> None:
    commands = [line for step in steps(workflow) for line in step.get("run", "").splitlines()]
    assert [command for command in commands if not is_there(command)] == []


def test_ci_runs_everything_on_each_python_that_is_supported() -> None:
    jobs = load(GITHUB / "workflows" / "ci.yml")["jobs"]
    supported = jobs["tests"]["strategy"]["matrix"]["python"]
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    assert [f"Programming Language :: Python :: {version}" for version in supported] == [
        each for each in classifiers if re.search(r":: 3\.\d+$", each)
    ]
    assert f"| Python | {', '.join(supported)}," in (ROOT / "docs" / "policies.md").read_text()
    assert jobs["tests"]["steps"][-1] == {"run": ".ci/run"}


def test_hooks_are_local_and_their_programs_installed() -> None:
    repositories = load(ROOT / ".pre-commit-config.yaml")["repos"]
    assert [each["repo"] for each in repositories] == ["local"]
    entries = [hook["entry"] for hook in repositories[0]["hooks"]]
    assert [entry for entry in entries if not is_there(entry)] == []


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.name)
def test_an_issue_form_has_what_github_asks_of_one(form: Path) -> None:
    said = load(form)
    assert set(said) == {"name", "description", "labels", "body"}
    fields = [field for field in said["body"] if field["type"] != "markdown"]
    assert all(field["type"] in ("textarea", "dropdown", "input") for field in fields)
    assert all(field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields)


def test_decisions_are_numbered_dated_and_in_the_index() -> None:
    rows = []
    for number, path in enumerate(DECISIONS, 1):
        lines = path.read_text().splitlines()
        title, date = re.fullmatch(rf"# {number}\. (.+)", lines[0]), re.match(r"\d{4}-\d\d-\d\d", lines[2])
        assert title, f"{path.name} begins with {lines[0]!r}"
        assert date, f"{path.name} has no date below its title"
        assert path.name.startswith(f"{number:04}-")
        assert [line for line in lines if line.startswith("## ")] == ["## Context", "## Decision", "## Consequences"]
        rows.append(f"| {number:04} | [{title[1]}]({path.name}) | {date[0]} |")
    index = (ROOT / "docs" / "decisions" / "README.md").read_text().splitlines()
    assert [line for line in index if re.match(r"\| \d{4} ", line)] == rows


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.finditer(page.read_text()):
        path, _, anchor = link["target"].partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link["target"])
    assert broken == []
