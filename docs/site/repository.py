"""What the site has from outside of docs/: every file of the repository that a page links to, under its own path.

A link that leaves docs/ (``../bench/RESULTS.md``) is right for whoever reads the pages in the repository. Here its file
becomes part of the site, a Markdown file as a page and any other as it is, and the link is turned towards it.
A link to nothing ends the build.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
DOCS = "docs"
CODE = re.compile(r"^(```+).*?^\1|`[^`\n]+`", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)(?=[)#])")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add what pages link to, and what those link to, and so on."""
    waiting = [f"{DOCS}/{file.src_uri}" for file in files.documentation_pages()]
    waiting += [path for path in _paths_of(config.nav) if not files.get_file_from_path(path)]
    known = set(waiting)
    while waiting:
        path = waiting.pop()
        if not path.startswith(f"{DOCS}/"):
            _add(path, files, config)
        for target in _targets(path):
            if target not in known:
                known.add(target)
                waiting.append(target)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of a page to where their targets are on the site."""
    path = _path_of(page.file)

    def turned(link: re.Match[str]) -> str:
        target = _site_uri(_target(path, link[1]))
        return posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".")

    return "".join(part if is_code else LINK.sub(turned, part) for part, is_code in _parts(markdown))


def _parts(markdown: str) -> Iterator[tuple[str, bool]]:
    """Iterate over text and code in turns, each with whether it is code."""
    end = 0
    for code in CODE.finditer(markdown):
        yield markdown[end : code.start()], False
        yield code[0], True
        end = code.end()
    yield markdown[end:], False


def _targets(path: str) -> Iterator[str]:
    if path.endswith(".md"):
        for part, is_code in _parts((ROOT / path).read_text(encoding="utf-8")):
            if not is_code:
                yield from (_target(path, link[1]) for link in LINK.finditer(part))


def _target(path: str, link: str) -> str:
    """Return the path in the repository of what a link on a page leads to; of a directory, its README."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    if (ROOT / target).is_dir():
        target = posixpath.join(target, "README.md")
    if not (ROOT / target).is_file():
        raise PluginError(f"{path}: the link {link} leads to nothing")
    return target


def _site_uri(path: str) -> str:
    return path.removeprefix(f"{DOCS}/")


def _path_of(file: File) -> str:
    return posixpath.relpath(str(file.abs_src_path), ROOT)


def _add(path: str, files: Files, config: MkDocsConfig) -> None:
    if files.get_file_from_path(path):
        raise PluginError(f"{path} is also the name of a file in {DOCS}/")
    file = File.generated(config, path, abs_src_path=str(ROOT / path), inclusion=InclusionLevel.NOT_IN_NAV)
    files.append(file)


def _paths_of(nav: object) -> Iterator[str]:
    """Iterate over the paths that a nav names."""
    match nav:
        case str():
            yield nav
        case list():
            for each in nav:
                yield from _paths_of(each)
        case dict():
            for each in nav.values():
                yield from _paths_of(each)
