"""What every test run needs: gRPC that survives child processes, their logs in failures, none of them left over."""

import os
import signal
import sys

# Spawning a child while a gRPC server runs in this process can otherwise crash the child between fork and exec
# (SIGSEGV, about 1 in 15). It must be set before the first import of grpc.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

# A shell starts what it runs in the background with SIGINT ignored, and children inherit that: they would not see the
# SIGINT that a test sends them before they have a handler of their own.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings
from support import processes, sharing, transports
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# How long examples take to make says nothing of them where other tests share the cores.
settings.register_profile("shared machine", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("shared machine")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling | None:
    """Share files as ``--dist loadfile`` does, but for those that need not stay together."""
    return sharing.UnitScheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have the tests that take longest first, where several processes share them."""
    if hasattr(config, "workerinput"):
        items[:] = [items[index] for index in sharing.longest_first([item.nodeid for item in items])]


def pytest_report_header() -> str:
    """Say which transport serves."""
    return f"transport: {transports.KIND} ({transports.VARIABLE}), where a test does not choose"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport]:
    """Show what each child process of a failed test has logged."""
    report = yield
    if report.failed:
        for child in processes.started():
            if tail := child.log_tail().strip():
                report.sections.append((f"log of {child.name} (pid {child.pid}), {call.when}", tail))
    return report


def pytest_runtest_setup() -> None:
    """End the windows of merged log lines: lines of earlier tests must not keep those of this one out of the log."""
    merged = sys.modules.get("xds.reporting.merged_log")
    if merged is not None:
        merged.peers_log.flush()


def pytest_runtest_logfinish() -> None:
    """Forget the children that ended with this test."""
    processes.forget_stopped()


def pytest_sessionfinish() -> None:
    """End whatever child process is still there."""
    processes.stop_all()
