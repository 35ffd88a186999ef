"""The command ``xds`` for tests that run it often: each run is a fork of one process that has imported its modules.

``program()`` returns the path of an executable that takes the place of ``xds``. The imports are four fifths of the time
that a short command takes. All else is as in a process of its own: arguments, variables, directory, the three
standard streams and the exit code. What runs long (``REAL``), what has a terminal, and what changes how Python itself
starts, is run by the real program.

Run as a script it is that one process: ``python quick_xds.py SOCKET``. It ends when its stdin does.
"""

import atexit
import contextlib
import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

BIN = Path(sys.executable).parent
REAL = ("serve", "envoy", "fleet", "top", "watch")
CLIENT = """#!{python} -IS
import os, sys
if (
    sys.argv[1:2] and sys.argv[1] in {real}
    or any(map(os.isatty, range(3)))
    or any(os.environ.get(name, "") not in {locales} for name in ("LANG", "LC_ALL", "LC_CTYPE"))
    or any(name.startswith("PYTHON") and name not in {unimportant} for name in os.environ)
):
    os.execv({xds!r}, [{xds!r}, *sys.argv[1:]])
import marshal, signal, socket
with socket.socket(socket.AF_UNIX) as end:
    end.connect({socket!r})
    request = marshal.dumps((sys.argv[1:], dict(os.environb), os.getcwdb()))
    socket.send_fds(end, [len(request).to_bytes(4, "big")], [0, 1, 2])
    end.sendall(request)
    pid = int.from_bytes(end.recv(4), "big")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: os.kill(pid, number))
    status = int.from_bytes(end.recv(4), "big")
if os.WIFSIGNALED(status):
    signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
    os.kill(os.getpid(), os.WTERMSIG(status))
os._exit(os.waitstatus_to_exitcode(status))
"""
LOCALES = ("", "C", "C.UTF-8")
"""With these, Python reads and writes alike. A run in another locale is one of the real program."""
UNIMPORTANT = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")
"""Variables of Python that change nothing of what a command does. With others, the real program runs."""


@functools.cache
def program() -> Path:
    """Return the path of an executable named ``xds``, alone in its directory. The first call starts the process."""
    directory = Path(tempfile.mkdtemp(prefix="xds-test-quick-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    at, client = directory / "socket", directory / "bin" / "xds"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDS_", "COVERAGE_"))}
    environment["LC_ALL"] = "C.UTF-8"
    process = subprocess.Popen(
        [sys.executable, "-P", __file__, str(at)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    atexit.register(process.wait)
    atexit.register(process.stdin.close)
    assert process.stdout.readline() == b"ready\n"
    process.stdout.close()
    client.parent.mkdir()
    given = {"python": sys.executable, "xds": str(BIN / "xds"), "socket": str(at)}
    client.write_text(CLIENT.format(**given, real=REAL, locales=LOCALES, unimportant=UNIMPORTANT))
    client.chmod(0o700)
    return client


def _serve(at: str) -> None:
    """Fork for each request; return in the child, with its streams, variables and arguments set."""
    import gc
    import marshal
    import select
    import signal

    listening = socket.socket(socket.AF_UNIX)
    listening.bind(at)
    listening.listen(64)
    gc.collect()
    gc.freeze()
    os.write(1, b"ready\n")
    ended_r, ended_w = os.pipe()
    os.set_blocking(ended_w, False)
    signal.set_wakeup_fd(ended_w)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, socket.socket] = {}
    left: set[socket.socket] = set()
    while True:
        ready, _, _ = select.select([0, listening, ended_r, *(set(running.values()) - left)], [], [])
        if 0 in ready:
            os._exit(0)
        if ended_r in ready:
            os.read(ended_r, 4096)
            while running:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                with running.pop(pid) as end:
                    left.discard(end)
                    _tell(end, status)
        for pid, end in running.items():
            if end in ready and end not in left:  # whoever asked has gone: nothing is ever sent after the request
                os.kill(pid, signal.SIGKILL)
                left.add(end)
        if listening not in ready:
            continue
        end, _ = listening.accept()
        request, descriptors = _request(end)
        if not request:
            end.close()
            continue
        if pid := os.fork():
            for descriptor in descriptors:
                os.close(descriptor)
            running[pid] = end
            _tell(end, pid)
            continue
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        os.closerange(3, max(descriptors[-1], end.fileno(), *(each.fileno() for each in running.values()), 16) + 1)
        arguments, environment, directory = marshal.loads(request)
        os.environb.clear()
        os.environb.update(environment)
        os.chdir(directory)
        sys.argv = [str(BIN / "xds"), *arguments]
        return


def _request(end: socket.socket) -> tuple[bytes, list[int]]:
    """Return a request and the caller's three streams, or b"" if the caller was killed before it had sent all."""
    size, descriptors, _, _ = socket.recv_fds(end, 4, 3)
    request, length = b"", int.from_bytes(size, "big")
    while len(request) < length and (part := end.recv(1 << 20)):
        request += part
    if len(request) == length:
        return request, descriptors
    for descriptor in descriptors:
        os.close(descriptor)
    return b"", []


def _tell(end: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):
        end.sendall(number.to_bytes(4, "big"))


def _imports() -> None:
    import asyncio  # noqa: F401
    from importlib import import_module

    from xds.cli.main import COMMANDS

    for command in COMMANDS.values():
        import_module(f"xds.cli.{command.module}")
    for name in (
        *("xds.client", "xds.schema.ingest", "xds.schema.show", "xds.sources.directory", "xds.sources.inline"),
        *("xds.config", "rich.console", "rich.table", "typer._adapters", "pydantic"),
    ):
        import_module(name)


def _streams() -> None:
    """Open Python's standard streams anew, as it does at its start."""
    out, err = sys.stdout, sys.stderr
    sys.stdin = open(0, encoding=sys.stdin.encoding, errors=sys.stdin.errors)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding=out.encoding, errors=out.errors)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding=err.encoding, errors=err.errors, buffering=1)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr


def _run() -> None:
    """Run the command and end as Python does, but for what it frees."""
    import threading

    from xds.cli.main import main

    code: object = 1
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    threading._shutdown()
    atexit._run_exitfuncs()
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit((code or 0) & 0xFF)


if __name__ == "__main__":
    os.environ |= {"GRPC_VERBOSITY": "ERROR", "GRPC_ENABLE_FORK_SUPPORT": "0"}  # as xds.cli.main sets them
    _imports()
    _serve(sys.argv[1])
    _streams()
    _run()
