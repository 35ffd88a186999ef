"""References between files: every page, heading and link that a tracked file names is there.

A reference is a relative link in Markdown, or the path of a page in any file: ``docs/protocol.md``, with a heading's
anchor or without. A heading counts where GitHub and MkDocs give it the same anchor.
"""

import re
import subprocess
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from posixpath import normpath

import pytest

ROOT = Path(__file__).parent.parent
CHECKED = {".py", ".md", ".proto", ".yaml", ".yml", ".toml", ".txt"}
"""Suffixes of the files that are looked through; Makefiles are, too."""

PAGE = re.compile(r"(?<![\w/.-])(docs/[\w/.-]*\.md)(?:#([\w-]+))?")
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|^ {0,3}\[[^\]]+\]:\s+(\S+)")
OUTSIDE = re.compile(r"[a-zA-Z][\w+.-]*:|//")
FENCE = re.compile(r" {0,3}(```+|~~~+)")
CODE = re.compile(r"(`+)(.+?)\1(?!`)")
HEADING = re.compile(r" {0,3}#{1,6}\s+(.*?)(?:\s+#+)?\s*$")
NAMED_ANCHOR = re.compile(r"<a\s+(?:id|name)=\"([^\"]+)\"")

NOWHERE = re.compile(
    r"\benvoy-facts\b|\bfacts(?:\.md)?,?\s+(?:section\s+)?\d|\bxDS (?:protocol )?page\b", re.IGNORECASE
)
"""Documents that are not in the repository."""
BARE_PAGE = r"(?<![\w/.-])(?:%s)\b(?![\"'])"


def tracked() -> list[str]:
    """Return the paths of all tracked files, relative to the repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for path in listed.stdout.split("\0") if (ROOT / path).is_file()]


def problems(root: Path, paths: Iterable[str]) -> list[str]:
    """Return what is wrong with the references in the files of these paths, which are all that there is."""
    known = set(paths)
    places = known | {str(parent) for path in known for parent in PurePosixPath(path).parents}
    pages = [PurePosixPath(path).name for path in known if re.fullmatch(r"docs/[\w-]+\.md", path)]
    found = []
    for path in sorted(known):
        if PurePosixPath(path).suffix not in CHECKED and not path.endswith("Makefile"):
            continue
        if (root / path).resolve() == Path(__file__).resolve():
            continue  # its examples of what is broken
        text = (root / path).read_text()
        for line, target, anchor in references(path, text):
            what = _wrong(root, places, target, anchor)
            if what:
                found.append(f"{path}:{line}: {what}")
        for line, what in _cited_in_vain(path, text, pages):
            found.append(f"{path}:{line}: {what}")
    return found


def references(path: str, text: str) -> Iterator[tuple[int, str, str]]:
    """Yield each reference of a file: its line, the path from the root that it means, and the anchor, "" for none."""
    for number, line in enumerate(text.splitlines(), start=1):
        for target, anchor in PAGE.findall(line):
            yield number, target, anchor
    if not path.endswith(".md"):
        return
    for number, line in outside_fences(text):
        for inline, defined in LINK.findall(CODE.sub("", line)):
            target, _, anchor = (inline or defined).partition("#")
            if not OUTSIDE.match(inline or defined):
                yield number, normpath(f"{PurePosixPath(path).parent}/{target}") if target else path, anchor


def _cited_in_vain(path: str, text: str, pages: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield what a reader can't look up: documents that are not here, and pages that are not called by their path."""
    bare = re.compile(BARE_PAGE % "|".join(map(re.escape, pages)))
    for number, line in enumerate(text.splitlines(), start=1):
        for match in NOWHERE.finditer(line):
            yield number, f"{match[0]!r} is not in the repository"
        if path.endswith((".py", ".proto", ".txt")):  # elsewhere it may be a link, or an entry of a site's navigation
            for match in bare.finditer(line):
                yield number, f"write docs/{match[0]}"


def outside_fences(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a Markdown page that are not in a block of code, with their numbers."""
    fence = ""
    for number, line in enumerate(text.splitlines(), start=1):
        match = FENCE.match(line)
        if fence:
            if match and match[1].startswith(fence):
                fence = ""
        elif match:
            fence = match[1]
        else:
            yield number, line


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the anchors that a Markdown page has, both on GitHub and in the site that MkDocs makes."""
    text = page.read_text()
    headings = [match[1] for _, line in outside_fences(text) if (match := HEADING.match(line))]
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    github, mkdocs = list[str](), list[str]()
    for heading in plain:
        github.append(_unique(re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-"), github, "-"))
        letters = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
        words = re.sub(r"[^\w\s-]", "", letters).strip().lower()
        mkdocs.append(_unique(re.sub(r"[-\s]+", "-", words), mkdocs, "_"))
    return frozenset(github).intersection(mkdocs).union(NAMED_ANCHOR.findall(text))


def _unique(slug: str, others: Iterable[str], separator: str) -> str:
    """Return the anchor of a heading where others have the same words: each further one is numbered."""
    candidates = [slug, *(f"{slug}{separator}{number}" for number in range(1, 100))]
    return next(candidate for candidate in candidates if candidate not in others)


def _wrong(root: Path, places: set[str], target: str, anchor: str) -> str:
    if target not in places:
        return f"there is no {target}"
    if not anchor:
        return ""
    if not target.endswith(".md"):
        return f"{target} is no page, and so has no #{anchor}"
    return "" if anchor in anchors(root / target) else f"{target} has no heading #{anchor}"


def test_what_is_referred_to_is_there() -> None:
    found = problems(ROOT, tracked())
    assert not found, "\n".join(["", *found])


PAGES = {
    "docs/page.md": """# The page

## In flight
## `initial_versions`
## Twice
## Twice
## What it -- really -- means
<a id="old-name"></a>

```sh
# no heading
```
""",
    "README.md": "# Read me\n",
    "tests/test_it.py": "",
}


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("a.py", "# docs/page.md", []),
        ("a.py", "# docs/page.md#in-flight.", []),
        ("a.py", "# (docs/page.md#initial_versions)", []),
        ("a.py", "# docs/page.md#twice", []),
        ("a.py", "# docs/page.md#old-name", []),
        ("a.py", "# docs/none.md", ["a.py:1: there is no docs/none.md"]),
        ("a.py", "\n# docs/page.md#in-flght", ["a.py:2: docs/page.md has no heading #in-flght"]),
        ("a.py", "# docs/page.md#no-heading", ["a.py:1: docs/page.md has no heading #no-heading"]),
        # GitHub and MkDocs number further headings of the same words differently, and differ in dashes.
        ("a.py", "# docs/page.md#twice-1", ["a.py:1: docs/page.md has no heading #twice-1"]),
        ("a.py", "# docs/page.md#twice_1", ["a.py:1: docs/page.md has no heading #twice_1"]),
        ("a.py", "# docs/page.md#what-it-really-means", ["a.py:1: docs/page.md has no heading #what-it-really-means"]),
        ("a.py", "# https://example.test/docs/none.md, ../docs/none.md", []),
        ("a.proto", "// docs/none.md", ["a.proto:1: there is no docs/none.md"]),
        ("a.yaml", "# docs/none.md", ["a.yaml:1: there is no docs/none.md"]),
        ("a.toml", "# docs/none.md", ["a.toml:1: there is no docs/none.md"]),
        ("sub/Makefile", "# docs/none.md", ["sub/Makefile:1: there is no docs/none.md"]),
        ("a.py", "made = MAKERS[kind](none)", []),
        ("docs/a.md", "[a](page.md), [b](page.md#in-flight), [c](../README.md#read-me), [d](../tests)", []),
        ("docs/a.md", "# Here\n[a](#here) [b](https://example.test/none.md#x) [c](mailto:a@example.test)", []),
        ("docs/a.md", "![drawn](none.svg)", ["docs/a.md:1: there is no docs/none.svg"]),
        ("docs/a.md", '[a](none.md "title")', ["docs/a.md:1: there is no docs/none.md"]),
        ("docs/a.md", "[`a`](page.md#none)", ["docs/a.md:1: docs/page.md has no heading #none"]),
        ("docs/a.md", "[a](#none)", ["docs/a.md:1: docs/a.md has no heading #none"]),
        ("docs/a.md", "[a](../../outside.md)", ["docs/a.md:1: there is no ../outside.md"]),
        ("docs/a.md", "[a][b]\n\n[b]: none.md", ["docs/a.md:3: there is no docs/none.md"]),
        ("docs/a.md", "[a](../tests/test_it.py#L1)", ["docs/a.md:1: tests/test_it.py is no page, and so has no #L1"]),
        ("docs/a.md", "`[a](none.md)`\n```\n[a](none.md)\n```\n~~~\n[a](none.md)\n~~~", []),
        ("a.md", "as docs/page.md#none says", ["a.md:1: docs/page.md has no heading #none"]),
        ("a.py", "# envoy-facts.md 2.4", ["a.py:1: 'envoy-facts' is not in the repository"]),
        ("a.py", "# (facts 2.7)", ["a.py:1: 'facts 2' is not in the repository"]),
        ("a.py", "# Facts, section 0", ["a.py:1: 'Facts, section 0' is not in the repository"]),
        ("a.py", "# the xDS protocol page", ["a.py:1: 'xDS protocol page' is not in the repository"]),
        ("a.txt", "# facts 2.1", ["a.txt:1: 'facts 2' is not in the repository"]),
        ("a.py", '"""page.md, rule 3"""', ["a.py:1: write docs/page.md"]),
        ("a.py", '# facts are kept; PAGE = "page.md"', []),
        ("mkdocs.yml", "nav:\n- page.md", []),
    ],
)
def test_a_broken_reference_is_found(tmp_path: Path, path: str, text: str, expected: list[str]) -> None:
    files = {**PAGES, path: text}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert problems(tmp_path, files) == expected
