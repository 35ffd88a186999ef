"""The REST API of a real server with requests generated from its OpenAPI document, and with malformed bodies."""

import asyncio
import os
import random
import sys
from pathlib import Path

import httpx
import pytest
from support.server import XdsServer

SEED = os.environ.get("XDS_TEST_SEED", "1")
"""The same requests in every run, unless another seed is given: what CI finds, the change under test has caused."""
EXAMPLES = os.environ.get("XDS_FUZZ_EXAMPLES", "15")
BODIES = int(os.environ.get("XDS_FUZZ_BODIES", "1000"))
SCHEMATHESIS = Path(sys.executable).parent / "schemathesis"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance"


@pytest.mark.timeout(300)
async def test_no_request_made_from_the_document_is_a_500() -> None:
    async with XdsServer(None) as server:
        await server.wait_ready()
        argv = [str(SCHEMATHESIS), "run", f"http://127.0.0.1:{server.admin_port}/v1/openapi.json"]
        argv += ["--checks", CHECKS, "--max-examples", EXAMPLES, "--phases", "examples,coverage,fuzzing"]
        argv += ["--exclude-path", "/v1/watch", "--request-timeout", "10", "--no-color", "--seed", SEED]
        process = await asyncio.create_subprocess_exec(
            *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=server.directory
        )
        said = (await process.communicate())[0].decode(errors="replace")
        assert process.returncode == 0, said[-6_000:]
        assert "bug in this server" not in server.log()


def mutated(chance: random.Random, body: bytes) -> bytes:
    """Return a body with a random mutation."""
    at = chance.randrange(len(body))
    match chance.randrange(4):
        case 0:
            return body[:at]
        case 1:
            return body[:at] + bytes([chance.randrange(256)]) + body[at + 1 :]
        case 2:
            return body[:at] + body[at : at + 20] * chance.randrange(2, 50) + body[at:]
        case _:
            return bytes(chance.randrange(256) for _ in range(chance.randrange(200)))


@pytest.mark.timeout(180)
async def test_malformed_bodies_are_a_clear_4xx_each_and_change_nothing() -> None:
    seed = int(SEED)
    chance = random.Random(seed)
    good = (
        b'{"upsert": [{"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "never", "type": "N"}],'
        b' "remove": [{"type": "clusters", "name": "x"}], "id": "i", "message": "m", "expected_revision": 3}'
    )
    kinds = ("application/json", "application/yaml", "application/x-protobuf")
    async with XdsServer(None) as server, httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.admin_port}") as api:
        await server.wait_ready()
        statuses: dict[int, int] = {}
        for number in range(BODIES):
            several = number % 2 == 1
            body = mutated(
                chance, b'{"groups": {"default": %s}, "rules": {"unmatched": "no"}}' % good if several else good
            )
            answer = await api.post(
                "/v1/changesets" if several else "/v1/groups/default/changesets",
                content=body,
                headers={"content-type": kinds[number % 3]},
            )
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
            empty = answer.status_code == 200 and not answer.json()["changed"]  # some bodies change nothing
            assert empty or (400 <= answer.status_code < 500 and answer.json()["error"]), f"seed {seed}: {answer.text}"
        assert (await api.get("/v1/groups")).json()["revision"] == 0
        print(f"seed {seed}: {statuses}")
