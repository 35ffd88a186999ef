"""An author's version of a change, as clients on real streams get it. See docs/protocol.md#versions."""

import pytest
from support.transports import settings_on
from support.wire import DeltaClient, Response, SotwClient

from xds.app import App
from xds.model.changeset import Changeset
from xds.model.resource import Resource
from xds.model.types import CLUSTER
from xds.schema.ingest import ingest
from xds.schema.restore import labelled


def cluster(name: str, timeout_s: int, label: str = "") -> Resource:
    found = ingest({"name": name, "type": "STATIC", "connect_timeout": f"{timeout_s}s"}, type_url=CLUSTER)
    return labelled(found, label) if label else found


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("variant", [DeltaClient, SotwClient])
async def test_the_version_of_a_change_reaches_clients(
    variant: type[DeltaClient] | type[SotwClient], workers: int
) -> None:
    app = App(settings_on("native", transport={"workers": workers}), workers=workers)
    try:
        app.apply(Changeset(upserts={"default": (cluster("a", 1), cluster("b", 1))}))
        await app.start()
        async with variant(str(app.address), node_id="n1") as client:

            async def take(timeout_s: int) -> Response:
                """Accept responses until one has the cluster with a time-out."""
                wanted = cluster("a", timeout_s).fingerprint
                while True:
                    response = await client.next()
                    await client.ack(response)
                    body = response.resources["a"].body if "a" in response.resources else None
                    if body is not None and wanted == fingerprint(body):
                        return response

            await client.subscribe(CLUSTER)
            assert (await take(1)).version not in ("", "build-7")
            app.apply(Changeset(upserts={"default": (cluster("a", 2, "build-7"),)}))
            assert (await take(2)).version == "build-7"
            app.apply(Changeset(upserts={"default": (cluster("a", 3, "build-8"), cluster("b", 2, "build-9"))}))
            assert (await take(3)).version not in ("build-7", "build-8", "build-9")
    finally:
        await app.stop()


def fingerprint(body: bytes) -> int:
    from xds.schema.pool import load_schema

    message = load_schema().message_class(CLUSTER.rpartition("/")[2]).FromString(body)
    return ingest(message).fingerprint
