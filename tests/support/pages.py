"""The pages of the documentation, and their fenced blocks."""

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)
INFO = re.compile(r'(?P<language>\w*)(?: title="(?P<title>[^"]+)")?')


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its page, its first line there, its language, its title ("" without one), and its text."""

    page: str
    line: int
    language: str
    title: str
    text: str

    @property
    def place(self) -> str:
        """Its place: ``docs/tutorial.md:12``."""
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Return the README and every page of docs/, as paths relative to the repository."""
    found = [path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md")]
    return ["README.md", *sorted(map(str, found))]


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page, in order."""
    text = (ROOT / page).read_text()
    found = []
    for fence in FENCE.finditer(text):
        info = INFO.fullmatch(fence["info"])
        line = text.count("\n", 0, fence.start()) + 1
        assert info is not None, f'{page}:{line}: write the fence as ```LANGUAGE or ```LANGUAGE title="TITLE"'
        found.append(Block(page, line, info["language"], info["title"] or "", dedent(fence["text"])))
    assert 2 * len(found) == len(re.findall(r"^ *```", text, re.MULTILINE)), f"{page}: a fence is not closed"
    return found
