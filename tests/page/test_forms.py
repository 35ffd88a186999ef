"""Forms that do not arrive: they take no place of other requests, and end soon."""

import contextlib
import socket
from collections.abc import Iterator

import httpx
from support.server import XdsServer
from support.waiting import wait_until

from tests.serving.test_overload import limit_hits

SIGN_IN = (
    "POST /page/sign-in HTTP/1.1\r\nhost: localhost:{port}\r\norigin: http://localhost:{port}\r\n"
    "content-type: application/x-www-form-urlencoded\r\ncontent-length: 60000\r\n\r\nx"
)


@contextlib.contextmanager
def silent_sign_ins(port: int, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(count)]
        for each in made:
            each.sendall(SIGN_IN.format(port=port).encode())
        yield made


async def test_sign_ins_that_do_not_arrive_keep_nobody_out(tmp_path) -> None:
    token = tmp_path / "token"
    token.write_text("t" * 40)
    settings = {"connections.admin_max": 64, "api.token_file": token, "api.message_timeout_s": 1}
    async with XdsServer(None, "--workers", "0", settings=settings) as server:
        await server.wait_ready()
        base = f"http://localhost:{server.admin_port}"
        async with httpx.AsyncClient(base_url=base, headers={"origin": base}, timeout=20) as api:
            assert (await api.get("/page/sign-in")).status_code == 200
            with silent_sign_ins(server.admin_port, 40) as silent:
                await wait_until(lambda: limit_hits(server), lambda hits: hits["sign_ins"] > 0)
                asked = await api.get("/v1/whoami", headers={"authorization": f"Bearer {'t' * 40}"})
                assert asked.status_code == 200, asked.text
                made = await api.post("/page/sign-in", data={"token": "t" * 40})
                assert made.status_code == 303, made.text
                for each in silent:
                    each.settimeout(10)
                    said = each.recv(15)
                    assert said == b"HTTP/1.1 408 Re" or said.startswith(b"HTTP/1.1 503 "), said
            with silent_sign_ins(server.admin_port, 3):
                await wait_until(lambda: limit_hits(server), lambda hits: hits["message_timeout"] > 0)
        assert not [event for event in server.events() if event["level"] == "error"], "who leaves is no fault"
