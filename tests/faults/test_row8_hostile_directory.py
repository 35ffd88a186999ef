"""A followed directory in which someone puts what should not be there: row 8 of docs/reliability.md.

Each intruder is put into a served directory with ``xds serve`` running. It must be reported with its place within a
second of the last write (a directory that is still being written to is not read), the server's memory must grow by at
most 50 MB, and the streams keep what they had. Then the intruder is removed, and a change of the good file must reach
the streams: the server has not stopped following.
"""

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from support import resources as r
from support.fault_matrix import Part, count, part
from support.running import children_of
from support.server import XdsServer
from support.waiting import NotMetError, for_a_while, wait_until
from support.worker_fleet import Fleet

from xds.schema.ingest import ingest

FILES = count(100_000, 5_000)
LARGE_BYTES = count(100 << 20, 80 << 20)
REPORTED_S = 1.0
MEMORY_BYTES = 50_000_000
SEEN_S = 30.0
CLUSTER = '"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster'


def bomb(root: Path) -> Path:
    """Aliases of aliases: ten levels of ten, ten thousand million values."""
    lines = ["x-0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"x-{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    return _written(root / "bomb.yaml", "\n".join([*lines, "resources: *a9", ""]).encode())


def nested(root: Path) -> Path:
    """A list in a list, 100,000 deep."""
    return _written(root / "deep.yaml", b"resources: " + b"[" * 100_000 + b"]" * 100_000 + b"\n")


def large(root: Path) -> Path:
    """One file of more than 64 MiB, which appears as a whole: if a writer paused, its first 60 MiB would be read."""
    line = b"- {" + CLUSTER.encode() + b", name: x}\n"
    made = _written(root.parent / "large.yaml", b"resources:\n" + line * (LARGE_BYTES // len(line)))
    return made.rename(root / "large.yaml")


def many(root: Path) -> Path:
    """Very many files, each without what a file needs."""
    directory = root / "many"
    directory.mkdir()
    for number in range(FILES):
        (directory / f"{number:06}.yaml").write_bytes(b"x")
    return root


def link_to_file(root: Path) -> Path:
    """A symbolic link to a file outside of the directory."""
    (root / "passwd.yaml").symlink_to("/etc/passwd")
    return root / "passwd.yaml"


def link_to_directory(root: Path) -> Path:
    """A symbolic link to a directory outside of it."""
    (root / "outside").symlink_to("/etc")
    return root / "outside"


def link_chain(root: Path) -> Path:
    """A link to a link within, which leads out of the directory."""
    (root / ".hidden").symlink_to("/etc/passwd")
    (root / "chain.yaml").symlink_to(".hidden")
    return root / "chain.yaml"


def traversal(root: Path) -> Path:
    """A group whose name leads out of its directory."""
    return _written(root / "groups.yaml", b'groups: {"../../etc": {}}\nrules: []\n')


def nul(root: Path) -> Path:
    """A name with NUL, written as an escape."""
    return _written(root / "nul.yaml", b"resources:\n- {" + CLUSTER.encode() + b', name: "a\\0b"}\n')


def raw_nul(root: Path) -> Path:
    """A NUL byte in the file."""
    return _written(root / "raw.yaml", b"resources:\n- {" + CLUSTER.encode() + b", name: a\0b}\n")


def bidi(root: Path) -> Path:
    """A name that shows as another one: U+202E turns the text behind it around."""
    name = "\u202egpj.exe"
    return _written(root / "bidi.yaml", f'resources:\n- {{{CLUSTER}, name: "{name}"}}\n'.encode())


def latin(root: Path) -> Path:
    """Text that is not UTF-8."""
    return _written(root / "latin.yaml", b"resources:\n- {" + CLUSTER.encode() + b", name: caf\xe9}\n")


def device(root: Path) -> Path:
    """A FIFO, which would block whoever opens it."""
    os.mkfifo(root / "fifo.yaml")
    return root / "fifo.yaml"


INTRUDERS = [
    *(bomb, nested, large, many, link_to_file, link_to_directory, link_chain, traversal, nul, raw_nul, bidi, latin),
    device,
]


def _written(path: Path, text: bytes) -> Path:
    path.write_bytes(text)
    return path


def remove(root: Path, kept: set[str]) -> None:
    """Remove all that is not part of the good directory."""
    for path in root.iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def anonymous_bytes(server: XdsServer) -> int:
    """Return the memory of the server's processes that is no file's."""
    total = 0
    for pid in [server.pid, *children_of(server.pid)]:
        with contextlib.suppress(OSError):
            found = Path(f"/proc/{pid}/status").read_text().partition("RssAnon:")[2].split()
            total += int(found[0]) << 10 if found else 0
    return total


@contextlib.asynccontextmanager
async def peak(server: XdsServer) -> AsyncIterator[Callable[[], int]]:
    """Yield a function that returns by how many bytes the memory has grown at most since the start of the block."""
    before, most = anonymous_bytes(server), 0

    async def look() -> None:
        nonlocal most
        while True:
            most = max(most, anonymous_bytes(server) - before)
            await for_a_while(0.005, "the interval of the samples")

    looking = asyncio.create_task(look())
    try:
        yield lambda: most
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


def problems(server: XdsServer) -> list[str]:
    """Return the problems that the server has logged."""
    return [each["problem"] for each in server.events("problem")]


@pytest.mark.timeout(600)
async def test_an_intruder_in_the_directory_is_reported_with_its_place_and_changes_nothing(tmp_path: Path) -> None:
    root = r.write_directory(tmp_path / "served", [r.static_cluster("good", 1)])
    kept = {path.name for path in root.iterdir()}
    with part(
        8, "directory", f"{len(INTRUDERS)} intruders in a followed directory, among them {FILES:,} files"
    ) as found:
        async with XdsServer(root, "--workers", "1") as server:
            await server.wait_ready()
            async with Fleet(server.port, 20, r.CLUSTER) as fleet:
                await fleet.wait_served()
                for number, intruder in enumerate(INTRUDERS, start=2):
                    held = fleet.followers[0].versions
                    await suffer(server, root, intruder, found)
                    found.equal(f"{intruder.__name__}: what was served stays", fleet.followers[0].versions, held)
                    remove(root, kept)
                    good = r.static_cluster("good", number)
                    r.write_directory(root, [good])
                    await fleet.wait_versions({"good": ingest(good).version})
                found.equal("streams ended", fleet.streams - len(fleet.followers), 0)


async def suffer(server: XdsServer, root: Path, intruder: Callable[[Path], Path], found: Part) -> None:
    """Let one intruder in, and check what the server says and what it costs it."""
    told, name = len(problems(server)), intruder.__name__
    async with peak(server) as grown:
        place = intruder(root)
        written = time.monotonic()
        with contextlib.suppress(NotMetError):
            await wait_until(lambda: problems(server)[told:], timeout_s=SEEN_S)
        took_s = time.monotonic() - written
        said = problems(server)[told:]
        placed = any(str(place) in each for each in said)
        shown = said[0].replace(f"{root.parent}/", "") if said else "none"
        found.holds(f"{name}: an error with its place", "one", shown, held=placed)
        found.at_most(f"{name}: reported within", took_s if said else None, REPORTED_S, " s", quiet=True)
        await for_a_while(0.2, "what it goes on to allocate is seen too")
        found.at_most(f"{name}: memory grown by", round(grown() / 1e6, 1), MEMORY_BYTES / 1e6, " MB")
