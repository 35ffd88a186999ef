"""A directory is read completely, or all of its problems are reported."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from support.waiting import wait_until_blocking

from xds.model import types
from xds.model.changeset import Changeset
from xds.model.groups import GroupTable
from xds.model.problem import ChangesetRejectedError
from xds.sources.directory import DirectoryLimits, DirectoryReader
from xds.sources.tree import Stamp, TreeLimits
from xds.sources.yaml_reader import YamlLimits


def cluster(name: str, timeout: str = "1s") -> str:
    return f'- "@type": {types.CLUSTER}\n  name: {name}\n  connect_timeout: {timeout}\n'


def write(path: Path, *resources: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("resources:\n" + "".join(resources))
    return path


def names(changeset: Changeset) -> dict[str, list[str]]:
    return {group: [resource.name for resource in resources] for group, resources in changeset.upserts.items()}


def refused(root: Path, **options: Any) -> list[tuple[str, int, str]]:
    with pytest.raises(ChangesetRejectedError) as caught:
        DirectoryReader(root, **options).read()
    return [
        (os.path.relpath(problem.file, root), problem.line, problem.what.replace(str(root), "DIR"))
        for problem in caught.value.problems
    ]


def hints(root: Path) -> list[str]:
    with pytest.raises(ChangesetRejectedError) as caught:
        DirectoryReader(root).read()
    return [problem.hint for problem in caught.value.problems]


def test_groups_are_directories_and_default_is_the_top(tmp_path: Path) -> None:
    write(tmp_path / "b.yaml", cluster("two"))
    write(tmp_path / "a.yml", cluster("one"))
    write(tmp_path / "web" / "deep" / "er" / "c.YAML", cluster("three"))
    write(tmp_path / "default" / "d.yaml", cluster("four"))
    (tmp_path / "web" / "d.json").write_text(json.dumps({"resources": [{"@type": types.CLUSTER, "name": "five"}]}))
    (tmp_path / "empty").mkdir()
    changeset = DirectoryReader(tmp_path).read()
    assert changeset.replace
    assert changeset.groups == GroupTable()
    assert names(changeset) == {"default": ["one", "two", "four"], "empty": [], "web": ["five", "three"]}
    assert changeset.upserts["web"][1].source == f"{tmp_path}/web/deep/er/c.YAML:2"


@pytest.mark.parametrize(
    "name",
    [".hidden.yaml", "x.yaml~", ".#x.yaml", ".x.yaml.swp", "x.yaml.tmp", "README.md", ".git/x.yaml", "x.yaml.bak"],
)
def test_hidden_and_temporary_files_and_other_extensions_are_ignored(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{ not yaml")
    assert names(DirectoryReader(tmp_path).read()) == {"default": []}


def test_envoys_own_file_format_is_taken(tmp_path: Path) -> None:
    text = "version_info: '1'\ntypeUrl: x\nnonce: n\ncontrol_plane: {identifier: x}\nresources:\n"
    (tmp_path / "a.yaml").write_text(text + cluster("one"))
    (tmp_path / "b.yaml").write_text("resources:\n")
    (tmp_path / "c.yaml").write_text("")
    assert names(DirectoryReader(tmp_path).read()) == {"default": ["one"]}


def test_all_problems_of_all_files_are_reported_in_order(tmp_path: Path) -> None:
    write(tmp_path / "b.yaml", cluster("ok"), "- 3\n", cluster("bad", "soon"))
    (tmp_path / "a.yaml").write_text("resource: []\n")
    (tmp_path / "c.yaml").write_text("resources: {}\n")
    (tmp_path / "d.yaml").write_text("- x\n")
    (tmp_path / "e.yaml").write_text("a: [\n")
    (tmp_path / "un known").mkdir()
    problems = refused(tmp_path)
    assert [(file, line) for file, line, _ in problems] == [
        ("a.yaml", 1),
        ("b.yaml", 5),
        ("b.yaml", 8),
        ("c.yaml", 1),
        ("d.yaml", 1),
        ("e.yaml", 2),
        ("un known", 0),
    ]
    assert problems[0][2] == "unknown key 'resource'"
    assert hints(tmp_path)[0] == "did you mean resources or resource_errors?"


@pytest.mark.parametrize("name", ["a.yaml", "a.json"])
def test_a_problem_within_a_resource_has_line_group_resource_and_field(tmp_path: Path, name: str) -> None:
    (tmp_path / "web").mkdir()
    bad = {"@type": types.CLUSTER, "name": "x", "connect_timeout": "1s", "lb_policyy": 1}
    (tmp_path / "web" / name).write_text(json.dumps({"resources": [{**bad, "lb_policyy": 1}]}, indent=1))
    with pytest.raises(ChangesetRejectedError) as caught:
        DirectoryReader(tmp_path).read()
    (problem,) = caught.value.problems
    assert (problem.line, problem.group, problem.resource) == (7, "web", "clusters/x")
    assert "lb_policyy" in problem.field + problem.what


def test_a_bootstrap_file_and_a_bare_resource_get_a_hint(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("static_resources: {}\n")
    (tmp_path / "b.yaml").write_text("name: x\n")
    assert [hint.split(";")[0] for hint in hints(tmp_path)] == [
        "this is a bootstrap file",
        "put the resource into a list under `resources:`",
    ]


def test_a_resource_that_appears_twice_cites_both_places(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", cluster("x"), cluster("z"))
    write(tmp_path / "b.yaml", cluster("z", "2s"))
    write(tmp_path / "other" / "b.yaml", cluster("z"), cluster("z"))
    assert refused(tmp_path) == [
        ("b.yaml", 2, "defined twice in this group, first at DIR/a.yaml:5"),
        ("other/b.yaml", 5, "defined twice in this group, first at DIR/other/b.yaml:2"),
    ]


def test_a_missing_root_is_a_problem(tmp_path: Path) -> None:
    assert refused(tmp_path / "no") == [(".", 0, "the directory does not exist")]
    (tmp_path / "file").touch()
    assert refused(tmp_path / "file") == [(".", 0, "is not a directory")]


def test_an_empty_root_is_a_problem_unless_allowed(tmp_path: Path) -> None:
    assert names(DirectoryReader(tmp_path).read()) == {"default": []}
    assert refused(tmp_path, allow_empty=False) == [(".", 0, "holds no resources")]


def test_a_configmap_is_read_once_through_its_visible_names(tmp_path: Path) -> None:
    write(tmp_path / "..2026_01" / "a.yaml", cluster("one"))
    write(tmp_path / "..2026_01" / "web" / "b.yaml", cluster("two"))
    (tmp_path / "..data").symlink_to("..2026_01")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    (tmp_path / "web").symlink_to("..data/web")
    assert names(DirectoryReader(tmp_path).read()) == {"default": ["one"], "web": ["two"]}


def test_symlinks_out_of_the_directory_are_problems(tmp_path: Path) -> None:
    write(tmp_path / "else" / "a.yaml", cluster("one"))
    write(tmp_path / "root-beside" / "a.yaml", cluster("one"))
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "web").symlink_to(tmp_path / "else")
    (root / "b.yaml").symlink_to("../else/a.yaml")
    (root / "sub" / "c.yaml").symlink_to("../../root-beside/a.yaml")
    (root / ".hidden").symlink_to(tmp_path / "else" / "a.yaml")
    (root / "d.yaml").symlink_to(".hidden")
    assert refused(root) == [
        ("b.yaml", 0, "a symlink to ../else/a.yaml, which is outside of the served directory"),
        ("d.yaml", 0, "a symlink to .hidden, which is outside of the served directory"),
        ("sub/c.yaml", 0, "a symlink to ../../root-beside/a.yaml, which is outside of the served directory"),
        ("web", 0, f"a symlink to {tmp_path}/else, which is outside of the served directory"),
    ]


def test_a_directory_that_is_itself_a_symlink_is_read_with_the_symlinks_in_it(tmp_path: Path) -> None:
    write(tmp_path / "real" / "a.yaml", cluster("one"))
    (tmp_path / "real" / "b").mkdir()
    (tmp_path / "real" / "b" / "c.yaml").symlink_to(tmp_path / "link" / "a.yaml")
    (tmp_path / "link").symlink_to("real")
    assert names(DirectoryReader(tmp_path / "link").read()) == {"default": ["one"], "b": ["one"]}


def test_symlinks_out_of_the_directory_are_followed_where_that_is_set(tmp_path: Path) -> None:
    write(tmp_path / "else" / "a.yaml", cluster("one"))
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "web").symlink_to(tmp_path / "else")
    (tmp_path / "root" / "b.yaml").symlink_to(tmp_path / "else" / "a.yaml")
    reader = DirectoryReader(tmp_path / "root", limits=DirectoryLimits(tree=TreeLimits(links_outside=True)))
    assert names(reader.read()) == {"default": ["one"], "web": ["one"]}
    assert reader.scan().directories == {str(tmp_path / "else")}


def test_symlink_loops_and_dangling_ones_are_problems(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "up").symlink_to("..")
    (tmp_path / "web" / "self.yaml").symlink_to("self.yaml")
    (tmp_path / "gone").symlink_to("nowhere")
    assert refused(tmp_path) == [
        ("gone", 0, "a symlink to nowhere, which does not exist"),
        ("web/self.yaml", 0, "can't be read: Too many levels of symbolic links"),
        ("web/up", 0, "a symlink loop: this leads to a directory that it is in"),
    ]


HIDDEN = ["a\0b", "a\x1b[2J", "\u202egpj.exe", "a\u200bb", "a\ufeff"]


@pytest.mark.parametrize("name", HIDDEN, ids=ascii)
def test_a_name_with_characters_that_nobody_sees_is_a_problem(tmp_path: Path, name: str) -> None:
    written = f"resources:\n- {{'@type': {types.CLUSTER}, name: {json.dumps(name)}}}\n"
    (tmp_path / "a.yaml").write_text(written)
    code = next(f"U+{ord(char):04X}" for char in name if not char.isalnum())
    assert refused(tmp_path) == [
        ("a.yaml", 2, f"the name {name!r} has {code}, which is not seen where it is shown"),
    ]


@pytest.mark.parametrize("file", ["a.yaml", "a.json", "groups.yaml"])
def test_text_that_reorders_what_is_around_it_is_a_problem_anywhere_in_a_file(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_text('{"resources": [\n"\u2066 and \u2069"]}')
    assert refused(tmp_path) == [(file, 2, "U+2066, which makes the text around it look like something else")]


def test_a_group_that_groups_yaml_names_wrongly_is_a_problem_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "groups.yaml").write_text("groups:\n  web: {}\n  ../../etc: {}\n")
    what = "'../../etc' is not a valid group name: 1 to 200 characters, without slashes and control characters"
    assert refused(tmp_path) == [("groups.yaml", 3, what)]


def test_files_from_before_the_clock_was_set_back_are_settled() -> None:
    stamp = Stamp(mtime_ns=100 * 10**9, ctime_ns=100 * 10**9, size_bytes=1, inode=1, device=1)
    moments = {"just written": 100.01, "later": 100.1, "of a server that is ahead": 99, "set back": 10}
    settled = {name: stamp.is_settled(int(at_s * 1e9)) for name, at_s in moments.items()}
    assert settled == {"just written": False, "later": True, "of a server that is ahead": False, "set back": True}


def test_a_fifo_is_a_problem_and_not_a_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    assert refused(tmp_path) == [("a.yaml", 0, "is not a regular file")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_a_problem(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml").chmod(0)
    assert refused(tmp_path) == [("a.yaml", 0, "can't be read: Permission denied")]


def test_what_is_read_is_bounded(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", cluster("one"))
    write(tmp_path / "w" / "x" / "y" / "b.yaml", cluster("two"))

    def told(tree: TreeLimits | None = None, file: YamlLimits | None = None) -> list[str]:
        limits = DirectoryLimits(tree=tree or TreeLimits(), file=file or YamlLimits())
        return [what for _, _, what in refused(tmp_path, limits=limits)]

    assert told(TreeLimits(files_max=1)) == ["more than 1 files of resources"]
    assert told(TreeLimits(bytes_max=100)) == ["more than 100 bytes of files"]
    assert told(TreeLimits(entries_max=2)) == ["more than 2 directory entries, symlinked ones included"]
    assert told(TreeLimits(depth_max=2)) == ["directories are nested deeper than 2"]
    size = (tmp_path / "a.yaml").stat().st_size
    assert told(file=YamlLimits(file_bytes_max=9)) == [f"the file has {size} bytes, more than the 9 allowed"] * 2


def test_of_a_directory_that_is_too_large_no_file_is_opened(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.yaml").write_text("not resources")
    assert refused(tmp_path, limits=DirectoryLimits(tree=TreeLimits(files_max=4))) == [
        (".", 0, "more than 4 files of resources")
    ]
    (tmp_path / "sub").mkdir()
    for number in range(20):
        (tmp_path / "sub" / f"{number}.yaml").write_text("not resources")
    tree = DirectoryReader(tmp_path, limits=DirectoryLimits(tree=TreeLimits(files_max=5))).scan()
    assert (tree.files, [problem.what for problem in tree.problems]) == ((), ["more than 5 files of resources"])


def test_after_a_thousand_bad_files_no_more_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xds.sources.directory.BAD_FILES_MAX", 2)
    write(tmp_path / "0.yaml", cluster("one"))
    for number in range(1, 5):
        (tmp_path / f"{number}.yaml").write_text("x")
    unread = "this file and those after it were not read, since 2 files before it have problems"
    reader = DirectoryReader(tmp_path)
    with pytest.raises(ChangesetRejectedError) as caught:
        reader.read()
    assert [(Path(each.file).name, each.what) for each in caught.value.problems] == [
        ("1.yaml", "holds no resources"),
        ("2.yaml", "holds no resources"),
        ("3.yaml", unread),
    ]
    for number in range(1, 5):
        write(tmp_path / f"{number}.yaml", cluster(f"c{number}"))
    assert names(reader.read()) == {"default": ["one", "c1", "c2", "c3", "c4"]}


def test_unchanged_resources_keep_their_objects(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", cluster("one"), cluster("two"), cluster("three"))
    write(tmp_path / "b.yaml", cluster("four"))
    reader = DirectoryReader(tmp_path)
    first = reader.read().upserts["default"]
    write(file, cluster("one"), cluster("two", "2s"), cluster("three"))
    second = reader.read().upserts["default"]
    assert [new is old for new, old in zip(second, first, strict=True)] == [True, False, True, True]
    write(file, "# a line\n", cluster("one"), cluster("two", "2s"), cluster("three"))
    third = reader.read().upserts["default"]
    assert [new.encoded is old.encoded for new, old in zip(third, second, strict=True)] == [True] * 4
    assert [resource.source.rpartition(":")[2] for resource in third] == ["3", "6", "9", "2"]


def test_resources_by_alias_keep_their_objects_too(tmp_path: Path) -> None:
    shared = "http2_protocol_options: &h {}\n"
    file = write(tmp_path / "a.yaml", cluster("one") + "  " + shared, cluster("two") + "  http2_protocol_options: *h\n")
    reader = DirectoryReader(tmp_path)
    first = reader.read().upserts["default"]
    file.write_text(file.read_text() + "# end\n")
    assert all(new is old for new, old in zip(reader.read().upserts["default"], first, strict=True))


def test_a_file_is_parsed_again_only_if_its_content_changed(tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path / f"{name}.yaml", cluster(name))
    parsed: list[tuple[int, int]] = []
    reader = DirectoryReader(tmp_path, progress=lambda done, total: parsed.append((done, total)))
    changeset = reader.read()
    size = (tmp_path / "a.yaml").stat().st_size
    assert parsed == [(size, 3 * size), (2 * size, 3 * size), (3 * size, 3 * size)]
    assert reader.read() == changeset


def test_a_file_whose_stamp_can_be_trusted_is_not_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.yaml", cluster("one"))
    reader = DirectoryReader(tmp_path)
    wait_until_blocking(lambda: all(file.stamp.is_settled(time.time_ns()) for file in reader.scan().files))
    changeset = reader.read()
    monkeypatch.delattr(DirectoryReader, "_text")
    assert reader.read() == changeset


def test_a_change_that_leaves_no_trace_in_the_stamp_is_seen_while_the_file_is_young(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.yaml", cluster("one"))
    reader = DirectoryReader(tmp_path)
    tree = reader.scan()
    assert not reader.load(tree).contents[str(file)].is_settled
    monkeypatch.setattr(DirectoryReader, "_text", lambda _self, _file: b"resources: []")
    assert reader.load(tree).served == {"default": {}}


def test_a_file_that_is_not_what_the_sweep_saw_makes_a_torn_reading(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", cluster("one"))
    reader = DirectoryReader(tmp_path)
    tree = reader.scan()
    write(file, cluster("other"))
    reading = reader.load(tree)
    assert (reading.is_torn, reading.changeset) == (True, None)


def test_a_directory_that_keeps_changing_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", cluster("one"))

    class Restless(DirectoryReader):
        count = 0

        def scan(self) -> Any:
            self.count += 1
            write(file, cluster("x" * self.count))
            return super().scan()

    with pytest.raises(ChangesetRejectedError, match="changed 10 times while it was read"):
        Restless(tmp_path).read()


def test_what_vanished_for_a_moment_is_not_ingested_again(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root / "a.yaml", cluster("one"))
    reader = DirectoryReader(root)
    first = reader.read().upserts["default"]
    root.rename(tmp_path / "away")
    with pytest.raises(ChangesetRejectedError):
        reader.read()
    (tmp_path / "away").rename(root)
    assert reader.read().upserts["default"] == first
