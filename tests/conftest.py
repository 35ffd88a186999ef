"""What every test run needs: gRPC that survives child processes, their logs in failures, none of them left over."""

import os
import signal

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
from support import processes, transports

# How long examples take to make says nothing of them where other tests share the cores.
settings.register_profile("shared machine", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("shared machine")


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


def pytest_runtest_logfinish() -> None:
    """Forget the children that ended with this test."""
    processes.forget_stopped()


def pytest_sessionfinish() -> None:
    """End whatever child process is still there."""
    processes.stop_all()
