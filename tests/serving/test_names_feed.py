"""Large sets of names pass a channel once, whatever the order of the messages and however many sets there are."""

import random

from xds.model.types import CLUSTER
from xds.protocol.node_history import HistoryEntry
from xds.protocol.subscription import NO_NAMES, NameSet
from xds.serving.feed import Ready, Remember, encode
from xds.serving.names_feed import BYTES_MIN, KEPT_BYTES_MAX, NamesDecoder, NamesEncoder


def large(number: int, count: int = 300) -> NameSet:
    return NameSet.of(f"cluster-{number}-{each}" for each in range(count))


def remember(node: str, rejected: NameSet = NO_NAMES, accepted: NameSet = NO_NAMES) -> Remember:
    entry = HistoryEntry(node=("web", node), type_url=CLUSTER, rejected=rejected, accepted=accepted, reason="bad")
    return Remember(entry)


def test_a_large_set_is_sent_once() -> None:
    encoder, decoder = NamesEncoder(), NamesDecoder()
    first = encoder.encode(remember("a", large(1)))
    # Equal, but another object, and in another place.
    second = encoder.encode(remember("b", accepted=NameSet(large(1).packed)))
    assert len(first) > len(large(1).packed) > 10 * len(second)
    decoded = [decoder.decode(first), decoder.decode(second)]
    assert decoded == [remember("a", large(1)), remember("b", accepted=large(1))]
    assert decoded[0].entry.rejected is decoded[1].entry.accepted


def test_both_ends_keep_the_same_sets_however_many_there_are() -> None:
    chance = random.Random(1)
    encoder, decoder = NamesEncoder(), NamesDecoder()
    sets = [large(number, count=10_000) for number in range(40)]
    assert sum(len(each.packed) for each in sets) > 1.5 * KEPT_BYTES_MAX
    kept = []
    for turn in range(300):
        sent = remember(f"n{turn}", chance.choice(sets), NameSet.of([f"small-{turn}"]))
        assert decoder.decode(encoder.encode(sent)) == sent
        kept.append(encoder.bytes_kept)
        assert decoder.bytes_kept == kept[-1]
    assert KEPT_BYTES_MAX / 2 < max(kept) <= KEPT_BYTES_MAX


def test_a_set_above_the_bound_is_kept_alone() -> None:
    encoder, decoder = NamesEncoder(), NamesDecoder()
    huge, small = large(1, count=KEPT_BYTES_MAX // 15), large(2)
    assert len(huge.packed) > KEPT_BYTES_MAX
    for sent in [remember("a", small), remember("b", huge), remember("c", huge), remember("d", small)]:
        assert decoder.decode(encoder.encode(sent)) == sent
    assert encoder.bytes_kept == decoder.bytes_kept == len(small.packed)


def test_small_sets_and_other_messages_pass_as_they_are() -> None:
    encoder, decoder = NamesEncoder(), NamesDecoder()
    small = NameSet.of(["x"])
    assert len(small.packed) < BYTES_MIN
    for message in [remember("a", small), remember("b", small), Ready()]:
        assert decoder.decode(encoder.encode(message)) == message
        assert decoder.decode(encode(message)) == message
    assert encoder.bytes_kept == decoder.bytes_kept == 0
