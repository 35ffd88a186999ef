"""What the client makes of the end of a stream of pushed endpoints."""

import grpc
import pytest
from grpc import aio

from xds.client.errors import maybe_made


def ended(*metadata: tuple[str, str], code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> aio.AioRpcError:
    return aio.AioRpcError(code, aio.Metadata(), aio.Metadata(*metadata), "over")


@pytest.mark.parametrize(
    ("answered_in_all", "open_messages"),
    [("2", 0), ("3", 1), ("9", 2), ("0", 0), ("many", 2), ("-1", 2), ("1e3", 2), ("", 2)],
)
def test_only_a_number_says_how_many_messages_the_server_answered(answered_in_all: str, open_messages: int) -> None:
    assert maybe_made(ended(("xds-answered", answered_in_all)), sent=2, answered=2) == open_messages


def test_without_a_number_all_that_was_sent_may_have_been_applied() -> None:
    assert maybe_made(ended(), sent=2, answered=2) == 2
    assert maybe_made(ConnectionError(), sent=2, answered=0) == 2
