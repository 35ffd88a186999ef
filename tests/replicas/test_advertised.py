"""Which address a replica gives to the others."""

import pytest

from xds.address import Address
from xds.replica_settings import ReplicaSettings
from xds.replicas.advertised import NO_API, UNREACHABLE, advertised

FAR, NEAR = ("10.0.0.1:2379", "10.0.0.2:2379"), ("127.0.0.1:2379", "localhost:2380")


@pytest.mark.parametrize(
    ("setting", "listen", "etcd", "expected"),
    [
        ("auto", "10.0.0.7:18001", FAR, ("10.0.0.7:18001", "")),
        ("auto", "0.0.0.0:18001", FAR, ("10.0.0.9:18001", "")),
        ("auto", "[::]:18001", FAR, ("10.0.0.9:18001", "")),
        ("auto", "0.0.0.0:18001", NEAR, ("127.0.0.1:18001", "")),
        ("auto", "127.0.0.1:18001", NEAR, ("127.0.0.1:18001", "")),
        ("auto", "127.0.0.1:18001", FAR, (None, UNREACHABLE.format(address="127.0.0.1:18001"))),
        ("auto", None, FAR, (None, NO_API)),
        ("xds-1.test:443", "127.0.0.1:18001", FAR, ("xds-1.test:443", "")),
        ("xds-1.test:443", None, FAR, ("xds-1.test:443", "")),
    ],
)
def test_the_address_is_one_that_others_reach(
    setting: str, listen: str | None, etcd: tuple[str, ...], expected: tuple[str | None, str]
) -> None:
    address, why = advertised(
        ReplicaSettings(advertise=setting),
        None if listen is None else Address.parse(listen),
        etcd,
        local_ip=lambda _far: "10.0.0.9",
    )
    assert (None if address is None else str(address), why) == expected


def test_the_own_address_is_that_of_the_route() -> None:
    address, _ = advertised(ReplicaSettings(), Address.parse("0.0.0.0:18001"), ("192.0.2.1:2379",))
    assert address is not None
    assert address.port == 18001
    assert address.host not in ("0.0.0.0", "127.0.0.1", "")


@pytest.mark.parametrize(
    "wrong", ["0.0.0.0:1", "[::]:1", "unix:/run/x", "host", "host:0", "host:70000", ":1", "*:1", "a b:1"]
)
def test_addresses_that_no_other_machine_reaches_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="advertise"):
        ReplicaSettings(advertise=wrong)


@pytest.mark.parametrize("wrong", ["-a", "a b", "a\n", "x" * 129, "\x1b[2J", "ü"])
def test_names_that_could_not_be_shown_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="is no name"):
        ReplicaSettings(name=wrong)
