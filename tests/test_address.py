import errno

import pytest

from xds.address import Address, BindError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:18000", Address("127.0.0.1", 18000)),
        ("0.0.0.0:0", Address("0.0.0.0", 0)),
        ("[::1]:18000", Address("::1", 18000)),
        ("cp.example:443", Address("cp.example", 443)),
        ("unix:/run/xds.sock", Address("", 0, "/run/xds.sock")),
    ],
)
def test_an_address_is_read_and_written_alike(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("localhost", "has no port; write HOST:PORT"),
        (":18000", "write 0.0.0.0:18000 or [::]:18000"),
        ("*:18000", "write 0.0.0.0:18000 or [::]:18000"),
        ("h:70000", "'70000' is not a number from 0 to 65535"),
        ("h:-1", "'-1' is not a number"),
        ("h:٣", "is not a number"),
        ("h:", "'' is not a number"),
        ("::1:80", "put the IPv6 address in brackets: [::1]:80"),
        ("[127.0.0.1]:80", "is not an IPv6 address"),
        ("http://h:80", "is not an IPv6 address"),
        ("h/x:80", "with no scheme and no path"),
        ("unix:xds.sock", "is not an absolute path"),
        ("unix:/" + "x" * 107, "longer than 107 bytes"),
        ("", "has no port"),
    ],
)
def test_a_bad_address_is_refused_with_what_to_write(text: str, told: str) -> None:
    with pytest.raises(ValueError) as caught:
        Address.parse(text)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("text", "is_loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.8.0.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/x", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("cp.example:1", False),
    ],
)
def test_loopback_is_told_from_what_others_can_reach(text: str, is_loopback: bool) -> None:
    assert Address.parse(text).is_loopback == is_loopback


@pytest.mark.parametrize(
    ("text", "reachable"),
    [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.1:1", "10.0.0.1:1"), ("unix:/x", "unix:/x")],
)
def test_every_interface_is_reached_by_loopback(text: str, reachable: str) -> None:
    assert str(Address.parse(text).reachable) == reachable


def test_a_bind_error_says_which_address_and_what_to_do() -> None:
    error = BindError("admin", Address("127.0.0.1", 80), OSError(errno.EADDRINUSE, "Address already in use"))
    assert error.errno == errno.EADDRINUSE
    assert str(error) == (
        "the admin address 127.0.0.1:80 is in use by another process; "
        "stop that one or choose another port (0: any free one)"
    )
    other = BindError("xDS", Address("h", 80), OSError(errno.ENOBUFS, "No buffer space"))
    assert str(other) == "the xDS address h:80 can't be listened on: No buffer space"
