import resource
from typing import Any

import pytest

from xds.address import Address
from xds.fleet.behaviour import Mix
from xds.fleet.config import NodeOptions, Tls, WorkerConfig
from xds.fleet.connector import source_address
from xds.fleet.options import FleetOptions
from xds.process.descriptors import make_room

SERVER = Address("127.0.0.1", 18_000)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"streams": ()}, "at least 1"),
        ({"streams": (0,)}, "at least 1"),
        ({"streams": (5, 5)}, "must grow"),
        ({"streams": (5, 4)}, "must grow"),
        ({"pushes": 1}, "needs something"),
        ({"newcomers": 1}, "needs something"),
        ({"trigger": "http://x/", "trigger_command": "x"}, "not both"),
        ({"trigger": "x"}, "not a URL"),
        ({"streams": (10**6,), "pushes": 100, "trigger": "http://x/"}, "samples"),
        ({"workers": 0}, "at least 1 worker"),
        ({"timeout_s": 0}, "timeout must be more than 0"),
        ({"pushes": -1}, "pushes must not be negative"),
        ({"churn_per_s": -1}, "churn must not be negative"),
        ({"window_bytes": 1 << 31}, r"RFC 9113"),
        ({"types": ("endpoints",)}, "Cluster would give"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FleetOptions(server=SERVER, **options)


def test_there_is_a_worker_for_so_many_sidecars_and_room_in_it() -> None:
    options = FleetOptions(server=SERVER, streams=(1_000, 100_000), newcomers=100, trigger="http://x/")
    assert (options.worker_count, len(options.configs(("127.0.0.1", 1)))) == (7, 8)
    assert 14_300 < options.descriptors_per_worker < 15_000


def test_a_worker_reads_what_it_is_told() -> None:
    options = FleetOptions(
        server=SERVER,
        streams=(10,),
        workers=3,
        subscribe={"routes": ("a", "b")},
        node=NodeOptions(metadata={"labels": {"x": 1}}),
        mix=Mix(stuck=0.1),
        tls=Tls("ca.pem"),
        sources=("127.0.0.9",),
    )
    for target in (("127.0.0.1", 1), "/run/xds.sock"):
        config = options.configs(target)[2]  # type: ignore[arg-type]
        again = WorkerConfig.from_json(config.to_json())
        assert again.plan == config.plan
        assert (again.target, again.first_index, again.stride) == (target, 2, 3)
        assert (again.node, again.mix, again.tls) == (options.node, options.mix, options.tls)


def test_source_addresses_are_of_loopback_and_for_a_thousand_sidecars_each() -> None:
    addresses = [source_address(index) for index in range(0, 1_000_000, 500)]
    assert len(set(addresses)) == 1_000
    assert all(address.startswith("127.") and not address.endswith((".0", ".255")) for address in addresses)


def test_too_few_descriptors_are_said_with_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_000, 20_000))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: given.append(limits))
    make_room(500)
    assert given == []
    make_room(15_000)
    assert given == [(15_000, 20_000)]
    with pytest.raises(ValueError, match=r"needs 20,001 open files.*`ulimit -n 20001`"):
        make_room(20_001)
