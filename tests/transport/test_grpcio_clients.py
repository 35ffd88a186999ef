"""Closing one connection of gRPC's server."""

import os
import socket

import pytest

from xds.transport import grpcio_clients


def _pair(host: str, family: socket.AddressFamily = socket.AF_INET) -> tuple[socket.socket, socket.socket]:
    with socket.create_server((host, 0), family=family) as listening:
        client = socket.create_connection(listening.getsockname()[:2])
        return listening.accept()[0], client


@pytest.mark.parametrize(
    ("host", "family", "address"),
    [
        ("127.0.0.1", socket.AF_INET, "ipv4:127.0.0.1:{port}"),
        ("::1", socket.AF_INET6, "ipv6:%5B::1%5D:{port}"),
    ],
)
def test_only_the_connection_of_the_client_is_closed_and_no_descriptor_is_left(host, family, address):
    (server, client), (other_server, other) = _pair(host, family), _pair(host, family)
    before = os.listdir("/proc/self/fd")
    port = client.getsockname()[1]
    where = grpcio_clients._where(address.format(port=port))
    assert where is not None
    for _ in range(5):
        grpcio_clients._shut_down({where})
    client.settimeout(5)
    assert client.recv(1) == b""
    other_server.sendall(b"a")
    assert other.recv(1) == b"a"
    assert len(os.listdir("/proc/self/fd")) == len(before)
    for each in (server, client, other_server, other):
        each.close()


def test_addresses_of_grpc_are_shown_as_of_the_other_transport():
    assert grpcio_clients.address_text("ipv4:10.0.0.1:5") == "10.0.0.1:5"
    assert grpcio_clients.address_text("ipv6:%5B::1%5D:5") == "[::1]:5"
    assert grpcio_clients.address_text("unix:") == "unix"
    assert [grpcio_clients._where(each) for each in ("unix:", "ipv4:a", "ipv4:127.0.0.1:x")] == [None] * 3
    assert grpcio_clients._where("ipv6:%5B::ffff:10.0.0.1%5D:5") == ("10.0.0.1", 5)
