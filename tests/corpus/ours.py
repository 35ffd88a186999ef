"""What the product says of cases, by the reader and the command that operators use."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corpus.cases import Case, common
from google.protobuf import any_pb2

from xds.model.resource import Resource
from xds.sources.directory import DirectoryReader

XDS = Path(sys.executable).parent / "xds"
COMMON = "common"


@dataclass
class Verdict:
    """What the product says of one case."""

    resources: tuple[Resource, ...] = ()
    problems: list[str] = field(default_factory=list)


def write(directory: Path, cases: Iterable[Case]) -> Path:
    """Write each case as a group of its own that extends the common one, and return the directory."""
    shutil.rmtree(directory, ignore_errors=True)
    (directory / COMMON).mkdir(parents=True)
    (directory / COMMON / "common.json").write_text(json.dumps({"resources": common()}))
    for case in cases:
        (directory / case.group).mkdir()
        (directory / case.group / f"case.{case.suffix}").write_bytes(case.text.encode())
    extend_common(directory, [path.name for path in directory.iterdir()])
    return directory


def extend_common(directory: Path, groups: Iterable[str]) -> None:
    """Have these groups extend the common one."""
    extends = {group: {"extends": COMMON} for group in groups if group != COMMON}
    (directory / "groups.yaml").write_text(json.dumps({"groups": extends}))


def read(directory: Path, cases: Iterable[Case]) -> dict[str, Verdict]:
    """Return what the reader says of each case by itself, without looking at references."""
    reader = DirectoryReader(directory)
    reading = reader.load(reader.scan())
    found = {}
    for case in cases:
        content = reading.contents[str(directory / case.group / f"case.{case.suffix}")]
        found[case.name] = Verdict(content.resources, [str(problem) for problem in content.problems])
    return found


def validate(directory: Path, *options: str) -> dict[str, list[str]]:
    """Return the problems that ``xds validate`` finds, by the group that it finds them in."""
    argv = [str(XDS), "validate", str(directory), "--format", "json", *options]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["ok"] == (done.returncode == 0) == (not report["problems"])
    found: dict[str, list[str]] = {}
    for problem in report["problems"]:
        group = problem["group"] or Path(problem["file"]).parent.name
        text = " ".join(str(problem[part]) for part in ("resource", "field", "what") if problem[part])
        found.setdefault(group, []).append(text)
    return found


def problems(directory: Path, cases: Iterable[Case]) -> dict[str, list[str]]:
    """Return what ``xds validate`` says of each case by its name, though some problems hide those of others.

    It is run again without the cases that it has found problems with, until it finds none.
    """
    left = list(cases)
    found: dict[str, list[str]] = {case.name: [] for case in left}
    while True:
        by_group = validate(write(directory, left))
        named = {case.name: by_group[case.group] for case in left if case.group in by_group}
        assert sum(map(len, named.values())) == sum(map(len, by_group.values())), by_group
        if not named:
            return found
        found |= named
        left = [case for case in left if case.name not in named]


def body(resource: Resource) -> bytes:
    """Return the encoded message of a resource, without its Any."""
    packed = any_pb2.Any.FromString(resource.encoded[resource.body_start : resource.body_end])
    assert packed.type_url == resource.type_url
    return packed.value
