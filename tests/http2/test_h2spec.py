"""h2spec passes, in plaintext and over TLS; and its runner detects failures."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support import toolchains
from support.native_clients import ToolchainMissingError

SCRIPT = Path(__file__).parents[2] / "bench" / "h2spec.py"


@pytest.fixture(scope="module")
def h2spec() -> ModuleType:
    """The runner as a module."""
    spec = importlib.util.spec_from_file_location("bench_h2spec", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up the module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["plaintext", "tls"])
def test_every_case_passes_or_has_a_reason(h2spec: ModuleType, tls: bool):
    try:
        report = h2spec.run(tls=tls)
    except ToolchainMissingError as missing:
        toolchains.without(missing)
    print(report.text())
    assert report.cases > 140
    assert report.good, report.text()


def test_a_failure_without_a_reason_and_a_reason_without_a_failure_are_both_bad(h2spec: ModuleType, monkeypatch):
    monkeypatch.setattr(h2spec, "EXPECTED", {"http2/1: may fail": "since", "http2/2: fails no more": "then"})
    cases = [h2spec.Case(f"http2/{number}: {what}", failed, "") for number, what, failed in (
        (1, "may fail", True),
        (3, "fine", False),
    )]  # fmt: skip
    report = h2spec.judged(cases)
    assert (report.good, report.obsolete, report.unexpected) == (False, ["http2/2: fails no more"], {})
    assert h2spec.judged(cases, whole=False).good
    report = h2spec.judged([*cases, h2spec.Case("http2/4: fails", True, "said")], whole=False)
    assert (report.good, report.unexpected) == (False, {"http2/4: fails": "said"})
    assert not h2spec.judged([]).good
