"""Keys of issuers by file and URL: how they are kept up to date, whatever happens to their source."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support import tokens as t
from support.jwks_server import jwks_server
from support.pki import Authority
from support.waiting import wait_until

from xds.identity.fetch import FetchError, Source, fetch, url_problem
from xds.identity.key_source import KeySource, keys_of

ONE, TWO = t.jwks(t.jwk("ES256", 1)), t.jwks(t.jwk("ES256", 1), t.jwk("ES256", 2))


class Followed:
    """A source that is followed, and what it reported."""

    def __init__(self, **issuer: Any) -> None:
        self.problems: list[str] = []
        self.source: KeySource = keys_of(
            t.issuer(**{"jwks_file": None, **issuer}),
            interval_s=0.05,
            timeout_s=0.5,
            file_interval_s=0.02,
            interval_min_s=0.05,
            on_problem=self.problems.append,
        )

    @property
    def kids(self) -> set[str]:
        return set() if self.source.current is None else set(self.source.current.by_kid)

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        await self.source.refresh()
        task = asyncio.create_task(self.source.follow())
        try:
            yield
        finally:
            task.cancel()


async def test_a_file_is_followed_and_a_bad_one_leaves_the_former_keys(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(ONE)
    followed = Followed(jwks_file=path)
    async with followed.following():
        assert followed.kids == {"ES256-1"}
        path.write_bytes(TWO)
        await wait_until(lambda: followed.kids, equals={"ES256-1", "ES256-2"})
        for bad, why in ((b'{"keys": []}', "no key that can verify"), (b"{", "not JSON"), (None, "can't be read")):
            followed.problems.clear()
            if bad is None:
                path.unlink()
            else:
                path.write_bytes(bad)
            await wait_until(lambda why=why: any(why in each for each in followed.problems))
            assert followed.kids == {"ES256-1", "ES256-2"}
        path.write_bytes(ONE)
        await wait_until(lambda: followed.kids, equals={"ES256-1"})


async def test_a_url_is_fetched_again() -> None:
    async with jwks_server(body=ONE) as server:
        followed = Followed(jwks_url=server.url)
        async with followed.following():
            assert followed.kids == {"ES256-1"}
            assert server.requests[0].startswith(b"GET /jwks?v=1 HTTP/1.1\r\n")
            server.body = TWO
            await wait_until(lambda: followed.kids, equals={"ES256-1", "ES256-2"})


FAILING: dict[str, tuple[bytes, str]] = {
    "not found": (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "answers with 404"),
    "redirected": (
        b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\ncontent-length: 0\r\n\r\n",
        "answers with 302",
    ),
    "not HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP"),
    "endless headers": (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000, "not HTTP"),
    "cut off": (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", "not HTTP"),
    "empty": (b"", "not HTTP"),
    "a page": (b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>", "not JSON"),
    "huge": (b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 1_100_000, "more than 1048576 bytes"),
    "huge, in chunks": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"10000\r\n%s\r\n" % (b" " * 65536) * 20,
        "more than 1048576 bytes",
    ),
    "without keys": (b'HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{"keys":[]}', "no key that can verify"),
}


@pytest.mark.parametrize("name", FAILING)
async def test_a_server_that_fails_leaves_the_former_keys(name: str) -> None:
    answer, why = FAILING[name]
    async with jwks_server(body=ONE) as server:
        followed = Followed(jwks_url=server.url)
        async with followed.following():
            server.answer = answer
            await wait_until(lambda: any(why in each for each in followed.problems))
            assert followed.kids == {"ES256-1"}
            server.answer, server.body = None, TWO
            await wait_until(lambda: followed.kids, equals={"ES256-1", "ES256-2"})


@pytest.mark.parametrize("trickles", [False, True])
async def test_a_slow_server_is_left_in_time_and_holds_nothing_up(trickles: bool) -> None:
    async with jwks_server(body=ONE) as server:
        followed = Followed(jwks_url=server.url)
        async with followed.following():
            if trickles:
                server.trickle_s = 0.01
            else:
                server.hold.set()
            await wait_until(lambda: any("no complete answer within 0.5 s" in each for each in followed.problems))
            assert followed.kids == {"ES256-1"}


async def test_a_server_that_is_gone_is_said_and_tried_again() -> None:
    async with jwks_server(body=ONE) as server:
        followed = Followed(jwks_url=server.url)
    async with followed.following():
        await wait_until(lambda: sum("no connection" in each for each in followed.problems) >= 3)
        assert followed.source.current is None


async def test_unknown_keys_cause_one_fetch_at_a_time_however_many_ask() -> None:
    async with jwks_server(body=ONE) as server:
        problems: list[str] = []
        source = keys_of(
            t.issuer(jwks_file=None, jwks_url=server.url),
            interval_s=3600,
            timeout_s=5,
            interval_min_s=0.2,
            on_problem=problems.append,
        )
        await source.refresh()
        task = asyncio.create_task(source.follow())
        server.body = TWO
        began = asyncio.get_running_loop().time()
        while source.current is not None and len(source.current) < 2:
            source.want_newer()
            await asyncio.wait({task}, timeout=0.005)
        assert asyncio.get_running_loop().time() - began >= 0.15, "it waits for its turn"
        task.cancel()
        assert len(server.requests) == 2
        assert not problems


async def test_the_server_is_shown_a_token_and_must_have_a_trusted_certificate(tmp_path: Path) -> None:
    import ssl

    authority = Authority(tmp_path / "ca")
    pair = authority.issue("keys", ips=["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert_path, pair.key_path)
    token = tmp_path / "token"
    token.write_text("abc.def.ghi\n")
    async with jwks_server(context, body=ONE) as server:
        source = Source(url=server.url, ca=authority.cert_path, token_file=token, bytes_max=1000, timeout_s=5)
        assert await fetch(source) == ONE
        assert b"\r\nauthorization: bearer abc.def.ghi\r\n" in server.requests[0].lower()
        other = Authority(tmp_path / "other", name="another CA")
        with pytest.raises(FetchError, match="not trusted"):
            await fetch(Source(url=server.url, ca=other.cert_path, bytes_max=1000, timeout_s=5))
        with pytest.raises(FetchError, match="more than 100 bytes"):
            await fetch(Source(url=server.url, ca=authority.cert_path, bytes_max=100, timeout_s=5))


@pytest.mark.parametrize("content", [b"", b"\xff", b"a\r\nx-evil: 1", b"a" * 100_000])
async def test_a_file_without_a_token_is_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(FetchError, match="has no token"):
        await fetch(Source(url="http://127.0.0.1:9/", token_file=path, bytes_max=100, timeout_s=5))


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://issuer.example/keys?x=1", ""),
        ("https://[::1]:8443/keys", ""),
        ("http://localhost:8080/keys", ""),
        ("http://issuer.example/keys", "not https"),
        ("http://127.0.0.1.evil.example/keys", "not https"),
        ("file:///etc/passwd", "not a URL"),
        ("ftp://issuer.example/", "not a URL"),
        ("issuer.example/keys", "not a URL"),
        ("https://", "not a URL"),
        ("https://issuer.example:99999/", "not a URL"),
        ("https://user:pw@issuer.example/keys", "a password"),
        ("https://issuer.example/keys#a", "fragment"),
        ("https://issuer.example/ke ys", "a space"),
        ("https://issuer.example/\r\nx: y", "a space"),
        ("https://bücher.example/", "character"),
        ("https://a..b/keys", "a host name that is none"),
        (f"https://{'a' * 64}.example/keys", "a host name that is none"),
    ],
)
def test_addresses_to_fetch_from(url: str, why: str) -> None:
    assert why in url_problem(url)
    assert bool(url_problem(url)) is bool(why)


async def test_a_host_name_that_is_none_is_said_and_ends_nothing() -> None:
    with pytest.raises(FetchError, match="the host name is none"):
        await fetch(Source(url="https://a..b/c", bytes_max=100, timeout_s=5))
