"""The simulation over real sockets with ``xds serve`` on both transports: at the end clients have all resources.

``make simulate`` runs more seeds. A failure prints the command that repeats its seed.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from simulation.running import simulate

SEEDS = int(os.environ.get("XDS_SOCKET_SEEDS", "20"))


@pytest.mark.timeout(120 + 5 * SEEDS)
def test_clients_on_real_streams_end_up_with_what_their_groups_have() -> None:
    done = simulate("--sockets", "--seeds", str(SEEDS))
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(120)
def test_a_seed_has_the_same_changes_each_time() -> None:
    with ThreadPoolExecutor() as pool:
        first, second = (
            done.stdout for done in pool.map(simulate, *zip(*2 * [["--sockets", "--seed", "1"]], strict=True))
        )
    assert _happenings(first) == _happenings(second)
    assert len(_happenings(first)) > 10


def _happenings(transcript: str) -> list[str]:
    """Return the events of the clients, in order, without the times."""
    return [line.split(" -- ", 1)[1] for line in transcript.splitlines() if " -- " in line]


@pytest.mark.timeout(120)
def test_a_server_that_does_not_order_changes_is_found() -> None:
    done = simulate("--sockets", "--seeds", "10", "--failures", "1", "--mutation", "changes are not ordered")
    print(done.stdout)
    assert "which are not there" in done.stdout
    assert done.returncode == 1
