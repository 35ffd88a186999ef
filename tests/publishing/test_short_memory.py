"""Changes while the memory is short: they are refused, but for those that traffic needs or that free memory."""

import pytest
from support import resources as r

from xds.publishing.changes import Change
from xds.schema.ingest import ingest
from xds.store.errors import UnavailableError


async def test_a_change_is_refused_and_says_why_and_is_taken_once_there_is_memory(replica) -> None:
    why, reached = ["memory is short (95 of 100 MiB, 95%)"], []
    one = await replica(refuses_because=lambda: why[0], on_limit=reached.append)
    change = Change(upserts={"default": (ingest(r.static_cluster("a", 1)),)})
    with pytest.raises(UnavailableError) as refused:
        await one.publisher.publish(change)
    text = "changes are refused: memory is short (95 of 100 MiB, 95%); nothing was changed, try again later"
    assert (str(refused.value), reached, one.served[1:]) == (text, ["memory_changes"], [])
    why[0] = ""
    assert (await one.publisher.publish(change)).revision == 1


async def test_endpoints_and_removals_are_taken_even_then(replica) -> None:
    why = [""]
    one = await replica(refuses_because=lambda: why[0])
    await one.publisher.publish(
        Change(
            upserts={
                "default": (ingest(r.cluster("a")), ingest(r.assignment("a", 1)), ingest(r.static_cluster("b", 1)))
            }
        )
    )
    why[0] = "memory is short"
    moved = Change(upserts={"default": (ingest(r.assignment("a", 2)),)}, mergeable=True)
    assert (await one.publisher.publish(moved)).revision == 2
    removed = Change(removals={"default": ((r.CLUSTER, "b"),)})
    assert (await one.publisher.publish(removed)).revision == 3
