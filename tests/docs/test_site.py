"""The documentation site builds strictly, and loads nothing from elsewhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.pages import ROOT, pages

LOADED = re.compile(
    r'<(?:script|img|iframe|source)[^>]*\ssrc="(https?:|//)|<link[^>]*rel="(?:stylesheet|preconnect)"[^>]*href="(https?:|//)'
)


def build(target: Path, *, config: Path = ROOT / "docs" / "site" / "mkdocs.yml") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", config, "--site-dir", target]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, env=env)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    done = build(target)
    assert done.returncode == 0, done.stderr
    return target


PROTO = "protos/xds_control_plane/snapshots.proto"


def test_every_page_of_docs_is_on_the_site(site: Path) -> None:
    expected = {
        page.removeprefix("docs/").removesuffix(".md").replace("README", "index") + ".html"
        for page in pages()
        if page.startswith("docs/")
    }
    assert expected <= {str(path.relative_to(site)) for path in site.rglob("*.html")}


def test_what_pages_link_to_in_the_repository_is_there_too(site: Path) -> None:
    assert (site / "bench" / "RESULTS.html").exists()
    assert (site / PROTO).read_text() == (ROOT / PROTO).read_text()
    assert 'href="../protos/xds_control_plane/snapshots.proto"' in (site / "reference" / "grpc.html").read_text()
    assert 'href="ordering.html"' in (site / "ARCHITECTURE.html").read_text()


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loads = [str(page) for page in site.rglob("*.html") if LOADED.search(page.read_text())]
    assert loads == []
    assert LOADED.search('<script src="https://unpkg.com/x.js">')


def copy_of_the_docs(tmp_path: Path) -> Path:
    """Return a repository with a copy of docs/, and with everything else as it is here."""
    root = tmp_path / "repository"
    shutil.copytree(ROOT / "docs", root / "docs")
    for path in ROOT.iterdir():
        if path.name != "docs":
            (root / path.name).symlink_to(path)
    return root


@pytest.mark.parametrize("link", ["nowhere.md", "../LICENSES", "../snapshots/nothing"])
def test_a_link_to_nothing_ends_the_build(link: str, tmp_path: Path) -> None:
    root = copy_of_the_docs(tmp_path)
    with (root / "docs" / "faq.md").open("a") as page:
        page.write(f"\n[a link]({link})\n")
    done = build(tmp_path / "site", config=root / "docs" / "site" / "mkdocs.yml")
    assert (done.returncode, f"docs/faq.md: the link {link} leads to nothing" in done.stderr) == (1, True), done.stderr


def test_a_link_to_no_heading_and_a_page_without_a_place_fail_the_build(tmp_path: Path) -> None:
    root = copy_of_the_docs(tmp_path)
    with (root / "docs" / "faq.md").open("a") as page:
        page.write(f"\n[a link]({Path('docs/ordering.md').name}#no-such-heading)\n")
    (root / "docs" / "stray.md").write_text("# Stray\n")
    done = build(tmp_path / "site", config=root / "docs" / "site" / "mkdocs.yml")
    assert done.returncode == 1
    assert "does not contain an anchor '#no-such-heading'" in done.stderr
    assert "- stray.md" in done.stderr
    assert done.stderr.count("WARNING") == 2
