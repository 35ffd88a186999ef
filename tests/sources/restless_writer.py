"""Write generations of the same resources into a directory, each in a way that editors or people do.

Run as ``restless_writer.py DIR SEED STEPS``. The files ``a``, ``b`` and ``c`` have ``PER_FILE`` clusters each, all of
one generation, which is their connect_timeout in seconds. It pauses only while a reader can see that the write is not
complete.
"""

import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from support.waiting import for_a_while_blocking

PER_FILE = 20
FILES = ("a", "b", "c")
TYPE = "type.googleapis.com/envoy.config.cluster.v3.Cluster"


def text(file: str, generation: int) -> str:
    """Return a file's complete text."""
    items = [
        f'- "@type": {TYPE}\n  name: {file}{number}\n  connect_timeout: {generation}s\n' for number in range(PER_FILE)
    ]
    return "resources:\n" + "".join(items)


class Writer:
    """Each method is one way of writing, and leaves a complete generation."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.random = root, random.Random(seed)
        self.ways: list[Callable[[int], None]] = [
            self.slowly_in_place,
            self.by_rename,
            self.like_vim,
            self.truncated_first,
            self.recreated,
            self.file_by_file_recreated,
            self.with_litter,
        ]

    def pause(self, most_s: float) -> None:
        """Be interrupted for a while."""
        for_a_while_blocking(self.random.uniform(0, most_s), "a writer is interrupted at any moment")

    def path(self, file: str) -> Path:
        return self.root / f"{file}.yaml"

    def slowly_in_place(self, generation: int) -> None:
        for file in FILES:
            whole = text(file, generation)
            with self.path(file).open("w") as opened:
                while whole:
                    count = self.random.randint(1, len(whole))
                    opened.write(whole[:count])
                    opened.flush()
                    whole = whole[count:]
                    self.pause(0.06)

    def by_rename(self, generation: int) -> None:
        for file in FILES:
            temporary = self.root / f".{file}.tmp"
            temporary.write_text(text(file, generation))
            temporary.rename(self.path(file))

    def like_vim(self, generation: int) -> None:
        for file in FILES:
            (self.root / "4913").touch()
            (self.root / "4913").unlink()
            backup = self.root / f"{file}.yaml~"
            self.path(file).rename(backup)
            self.pause(0.1)
            self.path(file).write_text(text(file, generation))
            backup.unlink()

    def truncated_first(self, generation: int) -> None:
        for file in FILES:
            self.path(file).write_text("")
            self.pause(0.15)
            self.path(file).write_text(text(file, generation))

    def recreated(self, generation: int) -> None:
        shutil.rmtree(self.root)
        self.pause(0.2)
        self.root.mkdir()
        self.pause(0.2)
        self.by_rename(generation)

    def file_by_file_recreated(self, generation: int) -> None:
        for file in FILES:
            self.path(file).unlink()
        for file in FILES:
            self.pause(0.1)
            self.path(file).write_text(text(file, generation))

    def with_litter(self, generation: int) -> None:
        (self.root / ".#a.yaml").symlink_to("nobody@nowhere:1")
        (self.root / ".a.yaml.swp").write_bytes(b"\0\1")
        self.by_rename(generation)
        (self.root / ".#a.yaml").unlink()
        (self.root / ".a.yaml.swp").unlink()


class ConfigMapWriter(Writer):
    """Writes like the kubelet: replaces all files of a volume at one instant."""

    def __init__(self, root: Path, seed: int) -> None:
        super().__init__(root, seed)
        self.ways = [self.by_data_link]

    def by_data_link(self, generation: int) -> None:
        fresh = self.root / f"..{generation}"
        fresh.mkdir()
        for file in FILES:
            (fresh / f"{file}.yaml").write_text(text(file, generation))
            self.pause(0.03)
        (self.root / "..data_tmp").symlink_to(fresh.name)
        old = os.readlink(self.root / "..data") if (self.root / "..data").exists() else None
        (self.root / "..data_tmp").rename(self.root / "..data")
        for file in FILES:
            if not self.path(file).is_symlink():
                self.path(file).symlink_to(f"..data/{file}.yaml")
        if old is not None:
            shutil.rmtree(self.root / old)


def main() -> None:
    """Write, and print the method's name after each step."""
    kind, root, seed, steps = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    writer = ConfigMapWriter(root, seed) if kind == "configmap" else Writer(root, seed)
    for generation in range(2, steps + 2):
        way = writer.random.choice(writer.ways)
        print(f"{generation} {way.__name__}", flush=True)
        way(generation)
        writer.pause(0.1)


if __name__ == "__main__":
    main()
