import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from support import quick_xds
from support.waiting import wait_until

REAL = quick_xds.BIN / "xds"


@pytest.mark.parametrize(
    "arguments",
    [
        ["statu"],
        ["get", "--api", "127.0.0.1:1", "-o", "json"],
        ["validate", "none"],
        ["tokens", "list", "--tokens-file", "none"],
        ["schema", "show", "--schema", "none"],
        ["bootstrap", "--node-id", "n", "--cluster", "c", "--server", "127.0.0.1:1"],
    ],
)
def test_a_fork_says_and_returns_what_the_program_does(arguments: list[str], tmp_path: Path) -> None:
    def run(program: Path) -> tuple[int, bytes, bytes]:
        done = subprocess.run([program, *arguments], capture_output=True, cwd=tmp_path, timeout=60)
        return done.returncode, done.stdout, done.stderr

    assert run(quick_xds.program()) == run(REAL)


def test_a_fork_has_the_variables_the_directory_and_the_streams_of_its_caller(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    environment = {"PATH": os.environ["PATH"], "XDS_PUSH_ADDRESS": "127.0.0.1:2"}
    done = subprocess.run(
        [quick_xds.program(), "groups", "-f", "-"],
        cwd=tmp_path,
        env=environment,
        input=b"rules: 1",
        capture_output=True,
    )
    assert (done.returncode, done.stdout) == (2, b"")
    done = subprocess.run([quick_xds.program(), "status"], cwd=tmp_path, env=environment, capture_output=True)
    assert b"127.0.0.1:2" in done.stderr
    done = subprocess.run(
        [quick_xds.program(), "validate", "there"], cwd=tmp_path, env=environment, capture_output=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
async def test_a_signal_to_a_fork_ends_it(number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        command = [quick_xds.program(), "wait", "--timeout", "60", "--api", address]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        silent.settimeout(20)
        taken, _ = silent.accept()
        child.send_signal(number)
        child.communicate(timeout=20)
        expected = {signal.SIGTERM: -signal.SIGTERM, signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}
        assert child.returncode == expected[number]
        taken.setblocking(False)

        def has_ended() -> bool:
            try:
                while taken.recv(4096):
                    pass
            except BlockingIOError:
                return False
            except ConnectionError:
                pass
            return True

        await wait_until(has_ended)
        taken.close()
