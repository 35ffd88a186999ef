"""Every program in docs/embedding.md runs, and prints what the page says."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.control_planes import app_of

from xds import embed

PAGE = Path(__file__).parent.parent / "docs" / "embedding.md"
TIMEOUT_S = 30
DATA_PLANE_S_OWN = "ignore:Using `@model_validator` with mode='after' on a classmethod:DeprecationWarning"
"""The warnings of envoy-data-plane 2.2 when it is imported."""
BLOCK = re.compile(r"^```python\n(?P<source>.*?)^```\n(?:\n```text\n(?P<prints>.*?)^```\n)?", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Program:
    """A block of Python, its heading, its first line on the page, and the text block right after it."""

    heading: str
    line: int
    source: str
    prints: str


def programs() -> list[Program]:
    text, found = PAGE.read_text(), []
    for block in BLOCK.finditer(text):
        before = text[: block.start("source")]
        heading = re.findall(r"^#+ (.*)$", before, re.MULTILINE)[-1]
        assert block["prints"] is not None, f"{PAGE}:{before.count(chr(10)) + 1}: say what the program prints"
        found.append(Program(heading, before.count("\n"), block["source"], block["prints"]))
    return found


def test_every_block_of_python_is_a_program_that_runs() -> None:
    assert len(programs()) == PAGE.read_text().count("```python")
    assert len(programs()) >= 6


@pytest.mark.parametrize("program", programs(), ids=lambda program: program.heading.replace(" ", "-"))
def test_program_prints_what_the_page_says(program: Program, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text("\n" * program.line + program.source)  # so that a traceback shows the line on the page
    command = [sys.executable, "-P", "-X", "dev", "-W", "error", "-W", DATA_PLANE_S_OWN, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=tmp_path, check=False)
    # asyncio reports what takes more than 0.1 s in debug mode, such as the first use of the schema on a busy machine.
    said = [line for line in done.stderr.splitlines() if not re.match(r"Executing <.* took \d+\.\d+ seconds$", line)]
    assert said == []
    expected = ".*".join(map(re.escape, program.prints.split("…")))
    assert re.fullmatch(expected, done.stdout), f"it printed\n{done.stdout}\ninstead of\n{program.prints}"
    assert done.returncode == 0


def test_the_programs_pass_a_strict_type_checker(tmp_path: Path) -> None:
    """But for those with ``envoy-data-plane``, whose generated code takes minutes to check."""
    for program in programs():
        if "envoy_data_plane" not in program.source:
            (tmp_path / f"line_{program.line}.py").write_text(program.source)
    command = [sys.executable, "-m", "mypy", "--strict", *map(str, tmp_path.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PAGE.parent.parent, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_public_name_is_explained() -> None:
    page = PAGE.read_text()
    assert [name for name in embed.__all__ if name != "__version__" and f"`{name}`" not in page] == []


def test_removing_from_a_group_that_there_is_not_makes_none() -> None:
    control_plane = embed.ControlPlane()
    assert control_plane.apply(remove=[("clusters", "web")], group="typo").revision == 0
    assert list(app_of(control_plane).catalog.snapshots) == ["default"]


def test_removing_something_of_no_type_is_refused() -> None:
    with pytest.raises(embed.ChangesetRejectedError, match=r"'clutsers' is not a resource type .did you mean clusters"):
        embed.ControlPlane().apply(remove=[("clutsers", "web")])


def test_a_program_may_have_protos_of_the_same_file_names_in_the_pool_that_the_process_shares(tmp_path: Path) -> None:
    """Two files of one name in protobuf's default pool are an error of whichever is imported later."""
    script = tmp_path / "program.py"
    script.write_text("""
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import Default

for name in ("etcd", "snapshots", "store", "xds_wire"):
    file = FileDescriptorProto(name=f"{name}.proto", package="shop")
    file.message_type.add(name=name.title())
    Default().AddSerializedFile(file.SerializeToString())

from xds._generated import etcd_pb2, snapshots_pb2, store_pb2, xds_wire_pb2

for module in (etcd_pb2, snapshots_pb2, store_pb2, xds_wire_pb2):
    print(module.DESCRIPTOR.name)
""")
    done = subprocess.run([sys.executable, "-P", str(script)], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.stderr == ""
    assert done.stdout.split() == [
        f"xds_control_plane/{name}.proto" for name in ("etcd", "snapshots", "store", "xds_wire")
    ]
