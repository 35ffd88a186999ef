"""What a process reads of its memory, from files laid out like those of cgroup v2 and v1."""

from pathlib import Path

import pytest

from xds.process.memory_readings import NO_LIMIT_BYTES, Reading, cgroup_reading, process_reading

MIB = 1024 * 1024
PRESSURE = "some avg10=30.00 avg60=0.00 avg300=0.00 total=9\nfull avg10={} avg60=0.00 avg300=0.00 total=9\n"


def lay_out(root: Path, lines: str, **folders: dict[str, object]) -> Path:
    """Write ``/proc/self/cgroup`` and files of cgroup folders: ``__`` is a slash, ``_`` the mount itself."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(lines)
    for folder, files in folders.items():
        place = root / "sys/fs/cgroup" / ("" if folder == "_" else folder.replace("__", "/"))
        place.mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (place / name.replace("memory_", "memory.")).write_text(f"{value}\n")
    return root


def v2(limit: object, used: int, dropped: int = 0, stalled: str = "0.00") -> dict[str, object]:
    stat = f"anon 1\ninactive_file {dropped}\nactive_file 3"
    return {
        "memory_max": limit,
        "memory_current": used,
        "memory_stat": stat,
        "memory_pressure": PRESSURE.format(stalled),
    }


def v1(limit: object, used: int, dropped: int = 0) -> dict[str, object]:
    stat = f"inactive_file 7\ntotal_inactive_file {dropped}"
    return {"memory_limit_in_bytes": limit, "memory_usage_in_bytes": used, "memory_stat": stat}


def test_v2_without_the_pages_of_files_that_can_be_dropped(tmp_path):
    read = cgroup_reading(lay_out(tmp_path, "0::/\n", _=v2(100 * MIB, 90 * MIB, 30 * MIB, "12.50")))
    assert read is not None
    assert read() == Reading(60 * MIB, 100 * MIB, 0.125)


def test_the_least_limit_of_the_cgroups_around_it_counts(tmp_path):
    folders = {"a__b": v2("max", 10 * MIB), "a": v2(50 * MIB, 20 * MIB), "_": v2(80 * MIB, 70 * MIB)}
    read = cgroup_reading(lay_out(tmp_path, "0::/a/b\n", **folders))
    assert read is not None
    assert read() == Reading(20 * MIB, 50 * MIB)


def test_v1_in_a_container_that_does_not_see_its_own_path(tmp_path):
    root = lay_out(tmp_path, "3:cpu,cpuacct:/x\n2:memory:/kubepods/pod1/c1\n", memory=v1(64 * MIB, 40 * MIB, 8 * MIB))
    read = cgroup_reading(root)
    assert read is not None
    assert read() == Reading(32 * MIB, 64 * MIB)


@pytest.mark.parametrize(
    "limit",
    [{"_": v2("max", 1)}, {"memory": v1(9_223_372_036_854_771_712, 1)}, {"_": {}}, {"memory": v1(NO_LIMIT_BYTES, 1)}],
)
def test_no_limit_is_no_reading(tmp_path, limit):
    assert cgroup_reading(lay_out(tmp_path, "2:memory:/\n0::/\n", **limit)) is None


def test_a_system_without_cgroups_has_no_reading(tmp_path):
    assert cgroup_reading(tmp_path) is None


def test_a_limit_that_is_changed_counts_at_once_and_one_that_vanishes_is_no_reading(tmp_path):
    read = cgroup_reading(lay_out(tmp_path, "0::/\n", _=v2(100 * MIB, 10 * MIB)))
    assert read is not None
    (tmp_path / "sys/fs/cgroup/memory.max").write_text(f"{20 * MIB}\n")
    assert read() == Reading(10 * MIB, 20 * MIB)
    (tmp_path / "sys/fs/cgroup/memory.max").unlink()
    assert read() is None


def test_a_process_reads_its_own_resident_memory():
    reading = process_reading(1024 * MIB)()
    assert reading is not None
    assert 5 * MIB < reading.used_bytes < 1024 * MIB
