"""New clients are answered in turns of their connections."""

from xds.protocol.policy import Variant
from xds.protocol.sessions import Stream
from xds.transport.newcomers import Newcomers


def stream(connection: str) -> Stream:
    return Stream(Variant.DELTA, "", connection)


def test_connections_take_turns_however_many_streams_they_have() -> None:
    newcomers = Newcomers()
    many = [stream("many") for _ in range(3)]
    one, other = stream("one"), stream("other")
    for number, each in enumerate([*many, one, other]):
        newcomers.add(each, float(number + 1))
    assert (len(newcomers), newcomers.since, one in newcomers) == (5, 1.0, True)
    assert [newcomers.take() for _ in range(5)] == [many[0], one, other, many[1], many[2]]
    assert (len(newcomers), newcomers.since, one in newcomers) == (0, 0.0, False)


def test_a_stream_that_has_ended_waits_no_more() -> None:
    newcomers = Newcomers()
    first, second, third = stream("a"), stream("a"), stream("b")
    for number, each in enumerate([first, second, third]):
        newcomers.add(each, float(number + 1))
    newcomers.discard(first)
    newcomers.discard(first)
    assert newcomers.since == 2.0
    assert newcomers.take() is second
    newcomers.discard(third)
    assert not newcomers
    newcomers.add(first, 4.0)
    newcomers.clear()
    assert len(newcomers) == 0
