"""The audit log: its lines, its chain, its files, and several writers."""

import asyncio
import fcntl
import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.waiting import wait_until

from xds.access import audit as module
from xds.access.audit import DONE, FORBIDDEN, NO_CHAIN, AuditFilter, AuditLog, read_audit, verify_audit
from xds.access.errors import AccessFileError


def written(path: Path, count: int, **options: int) -> None:
    now_s = iter(range(1_000, 1_000 + count))
    audit = AuditLog(path, clock=lambda: float(next(now_s)), **options)
    for number in range(count):
        outcome = FORBIDDEN if number % 3 == 0 else DONE
        audit.record("Apply", who=f"token:t{number % 2}", outcome=outcome, groups=(f"g{number}",), revision=number)
    audit.close()


def test_records_are_read_newest_first_by_who_group_time_and_outcome(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    written(path, 10)
    assert [each["revision"] for each in read_audit(path, AuditFilter())] == list(range(9, -1, -1))
    assert [each["revision"] for each in read_audit(path, AuditFilter(who="*:t1", limit=2))] == [9, 7]
    assert [each["revision"] for each in read_audit(path, AuditFilter(group="g[45]"))] == [5, 4]
    assert [each["revision"] for each in read_audit(path, AuditFilter(since_s=1_008.0))] == [9, 8]
    assert [each["revision"] for each in read_audit(path, AuditFilter(outcome=FORBIDDEN))] == [9, 6, 3, 0]
    assert read_audit(path, AuditFilter(limit=1))[0]["at"] == "1970-01-01T00:16:49.000Z"
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_chain_goes_on_after_a_restart_and_through_all_files(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    for _ in range(5):
        written(path, 20, bytes_max=2_000, files_max=4)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["audit", "audit.1", "audit.2", "audit.3", "audit.lock"]
    total, problems = verify_audit(path)
    assert (total > 20, problems) == (True, [])
    assert len(read_audit(path, AuditFilter())) == total
    assert all(each.stat().st_size <= 2_000 for each in tmp_path.iterdir())


@pytest.mark.parametrize("harm", ["edit", "remove", "insert", "swap"])
def test_a_changed_line_breaks_the_chain(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "audit"
    written(path, 6)
    lines = path.read_text().splitlines(keepends=True)
    match harm:
        case "edit":
            lines[2] = lines[2].replace("token:t0", "token:t9")
        case "remove":
            del lines[2]
        case "insert":
            lines.insert(2, lines[1])
        case _:
            lines[2], lines[3] = lines[3], lines[2]
    path.write_text("".join(lines))
    assert verify_audit(path)[1][0].startswith(f"{path}:3: was edited")


def test_a_line_that_a_crash_has_cut_is_reported_and_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    written(path, 3)
    path.write_bytes(path.read_bytes()[:-20])
    written(path, 3)
    assert [each["revision"] for each in read_audit(path, AuditFilter())] == [2, 1, 0, 1, 0]
    assert verify_audit(path) == (5, [f"{path}:3: is not a whole record"])


def test_two_writers_of_one_file_share_its_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    first, second = AuditLog(path, bytes_max=3_000), AuditLog(path, bytes_max=3_000)
    for number in range(40):
        (first if number % 3 else second).record("Apply", who="token:a", outcome=DONE, revision=number)
    first.close()
    second.close()
    assert verify_audit(path) == (40, [])
    assert [each["revision"] for each in read_audit(path, AuditFilter())] == list(range(39, -1, -1))


def test_records_are_bounded_and_hostile_text_stays_on_its_line(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    audit = AuditLog(path)
    groups = tuple(f"g{number:04}" for number in range(500))
    audit.record("Apply", who="x\n{}\u202e", outcome=DONE, groups=groups, detail="y" * 100_000, empty="", none=None)
    audit.close()
    (line,) = path.read_text().splitlines()
    told = json.loads(line)
    assert (len(told["groups"]), told["more_groups"], len(told["detail"])) == (100, 400, 2_000)
    assert told.keys() == {"at", "what", "who", "outcome", "groups", "more_groups", "detail", "chain"}
    assert told["chain"] != NO_CHAIN


def test_a_file_that_can_not_be_written_ends_a_start(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()
    with pytest.raises(AccessFileError, match="can't be written"):
        AuditLog(tmp_path / "audit").open()


def test_no_file_is_made_before_the_first_record_and_none_is_written_after_the_end(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path / "audit")
    assert list(tmp_path.iterdir()) == []
    audit.record("Apply", who="token:a", outcome=DONE)
    audit.close()
    audit.record("Apply", who="token:a", outcome=DONE)
    assert (audit.problem, len(read_audit(tmp_path / "audit", AuditFilter()))) == ("", 1)


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Let this process open no file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_file_that_can_not_be_opened_again_leaves_the_descriptors_of_others_alone(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    audit = AuditLog(path)
    audit.record("first", who="a", outcome=DONE)
    written(path, 1)  # by another process
    with no_more_descriptors():
        audit.record("lost", who="a", outcome=DONE)
    assert "Too many open files" in audit.problem
    with ExitStack() as stack:
        others = [stack.enter_context((tmp_path / f"other-{number}").open("wb")) for number in range(20)]
        audit.record("later", who="a", outcome=DONE)
        audit.close()
        for each in others:
            os.fstat(each.fileno())  # none was closed
    assert audit.problem == ""
    assert [each["what"] for each in read_audit(path, AuditFilter())] == ["later", "Apply", "first"]
    assert verify_audit(path) == (3, [])


@pytest.mark.parametrize("files_max", [1, 3])
def test_a_file_that_can_not_be_begun_loses_no_later_record(tmp_path: Path, files_max: int) -> None:
    path = tmp_path / "audit"
    audit = AuditLog(path, bytes_max=300, files_max=files_max)
    audit.record("first", who="a", outcome=DONE)
    before = path.read_bytes()
    with no_more_descriptors():
        audit.record("lost", who="a", outcome=DONE, detail="x" * 200)
    assert "Too many open files" in audit.problem
    assert (path.read_bytes(), len(list(tmp_path.iterdir()))) == (before, 2)
    audit.record("later", who="a", outcome=DONE, detail="x" * 200)
    assert audit.problem == ""
    audit.close()
    told = [each["what"] for each in read_audit(path, AuditFilter())]
    assert told == (["later"] if files_max == 1 else ["later", "first"])
    assert verify_audit(path)[1] == []


async def test_a_sync_that_can_not_be_made_is_made_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xds.access.audit.SYNC_S", 0.01)
    synced: list[int] = []
    monkeypatch.setattr("xds.access.audit._sync_and_close", lambda it: (os.close(it), synced.append(it)))
    audit = AuditLog(tmp_path / "audit")
    audit.record("first", who="a", outcome=DONE)
    with no_more_descriptors():
        audit._sync_now(asyncio.get_running_loop())
    await wait_until(lambda: synced)
    audit.close()


@contextmanager
def writing(path: Path) -> Iterator[Callable[[], None]]:
    """Hold the lock of an audit log as another process that writes it, until the end or a call of what is returned."""
    with path.with_name(f"{path.name}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lambda: fcntl.flock(lock, fcntl.LOCK_UN)


async def test_a_server_goes_on_while_another_process_writes_and_then_writes_what_waited(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    audit = AuditLog(path)
    with writing(path) as end:
        audit.open()
        audit.record("first", who="a", outcome=DONE)
        audit.record("second", who="a", outcome=DONE)
        answers = [asyncio.ensure_future(audit.written()) for _ in range(2)]
        await wait_until(lambda: audit._written is not None)
        assert read_audit(path, AuditFilter()) == []
        assert not any(each.done() for each in answers)
        end()
        await asyncio.gather(*answers)
        assert [each["what"] for each in read_audit(path, AuditFilter())] == ["second", "first"]
    audit.record("third", who="a", outcome=DONE)
    await audit.written()
    audit.close()
    assert audit.problem == ""
    assert verify_audit(path) == (3, [])


async def test_an_answer_does_not_wait_for_ever_for_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TURN_S_MAX", 0.01)
    path = tmp_path / "audit"
    audit = AuditLog(path)
    with writing(path) as end:
        audit.record("first", who="a", outcome=DONE)
        await audit.written()
        assert audit.problem.endswith("another process does not stop writing it")
        end()
        await wait_until(lambda: audit.problem, equals="")
    audit.close()
    assert verify_audit(path) == (1, [])


async def test_records_that_never_have_their_turn_are_bounded_and_only_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING_MAX", 3)
    monkeypatch.setattr(module, "CLOSE_TRIES_MAX", 1)
    path = tmp_path / "audit"
    audit = AuditLog(path)
    told: list[str] = []
    monkeypatch.setattr(audit, "_tell", lambda content: told.append(content["what"]))
    with writing(path):
        for number in range(5):
            audit.record(f"{number}", who="a", outcome=DONE)
        assert told == ["0", "1"]
        audit.close()
    assert told == ["0", "1", "2", "3", "4"]
    assert read_audit(path, AuditFilter()) == []
