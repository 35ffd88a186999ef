"""The table of client states: equal states are one object while anything refers to it; different states are not."""

import gc
from weakref import KeyedRef

import pytest
from support.encoded import CDS, EDS

from xds.protocol import client_state as module
from xds.protocol.client_state import NOT_BEGUN, ClientStates
from xds.protocol.policy import Ordering, Variant
from xds.protocol.responses import Part
from xds.protocol.type_state import Kind, TypeState


def states(*types: str, dirty: bool = False) -> tuple[TypeState, ...]:
    return tuple(TypeState(KINDS[type_url], dirty=dirty) for type_url in types)


KINDS = {type_url: Kind(type_url, Variant.DELTA) for type_url in (CDS, EDS)}


def test_equal_client_states_are_one_object_and_different_ones_are_not() -> None:
    table = ClientStates(Ordering())
    one = table.shared(states(CDS, EDS), NOT_BEGUN)
    assert table.shared(states(CDS, EDS), NOT_BEGUN) is one
    assert table.shared(states(CDS), NOT_BEGUN) is not one
    assert table.shared(states(CDS, EDS, dirty=True), NOT_BEGUN) is not one
    assert table.shared(states(CDS, EDS), NOT_BEGUN._replace(check_removals=True)) is not one


def test_client_states_with_a_response_in_flight_are_not_looked_up() -> None:
    table = ClientStates(Ordering())
    (state,) = states(CDS)
    part = Part(nonce="1", message=b"", upserts=(), removals=(), version="")
    sent = (state._replace(in_flight=(part,)),)
    assert table.shared(sent, NOT_BEGUN) is not table.shared(sent, NOT_BEGUN)
    assert len(table) == 0


def test_client_states_with_equal_hashes_are_not_confused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_hash_of", lambda _: 7)
    table = ClientStates(Ordering())
    one = table.shared(states(CDS), NOT_BEGUN)
    other = table.shared(states(EDS), NOT_BEGUN)
    assert (one.types, other.types) == (states(CDS), states(EDS))


def test_an_unused_client_state_is_dropped_and_no_other_in_its_place() -> None:
    table = ClientStates(Ordering())
    one = table.shared(states(CDS), NOT_BEGUN)
    (key,) = table._known
    older = KeyedRef(table.new((), NOT_BEGUN), lambda _: None, key)
    table._forget(older)  # of an earlier state with the same hashes
    assert len(table) == 1
    assert table.shared(states(CDS), NOT_BEGUN) is one
    del one
    gc.collect()
    assert len(table) == 0
