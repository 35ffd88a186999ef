"""The gate: who is admitted, what is remembered, and that a storm of tokens holds nothing up."""

import asyncio
import time
from itertools import pairwise
from typing import Any

import pytest
from support import tokens as t
from support.waiting import turns, wait_until

from xds.identity.admission import RefusedTokenError, TokenAdmission
from xds.identity.gate import REMEMBERED_MAX, TokenGate
from xds.identity.keys import read_jwks
from xds.identity.verifier import Verifier
from xds.model.identity import Peer


class Gate(TokenGate):
    """A gate whose clock a test sets, with a list of the bugs that it reported."""

    def __init__(self, kind: str = "ES256", *, jitter_s: float = 0.0, **more: Any) -> None:
        self.faults: list[Exception] = []
        self.ahead_s = 0.0
        keys = t.HeldKeys(read_jwks(t.jwks(t.jwk(kind))))
        super().__init__(
            Verifier([(t.issuer(algorithms=(kind,)), keys)], leeway_s=10, now=self.time),
            leeway_s=10,
            jitter_s=jitter_s,
            now=self.time,
            on_fault=self.faults.append,
            **{"token_bytes_max": 8192, **more},
        )

    def time(self) -> float:
        return time.time() + self.ahead_s


async def refusal(gate: TokenGate, authorization: str) -> RefusedTokenError:
    with pytest.raises(RefusedTokenError) as caught:
        await gate.admitted(authorization)
    return caught.value


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_client_with_a_valid_token_is_admitted_until_it_expires(scheme: str) -> None:
    gate = Gate()
    now = asyncio.get_running_loop().time()
    admission = await gate.admitted(f"{scheme} {t.token(exp=int(time.time()) + 100)}")
    assert admission.peer == Peer(("jwt:corp/web",))
    assert 108 < admission.ends_at - now < 111


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        ("", "missing"),
        ("Bearer", "malformed"),
        ("Bearer ", "malformed"),
        ("Basic dXNlcjpwdw==", "malformed"),
        ("Bearer a b", "malformed"),
        ("Bearer  " + t.token(), "malformed"),
        (f"Bearer {t.token()},Bearer {t.token()}", "malformed"),
        (t.token(), "malformed"),
        ("Bearer tökén", "malformed"),
        ("Bearer " + "x" * 8193, "too large"),
        ("Bearer " + t.token(exp=1), "expired"),
        ("Bearer " + t.token(iss="https://other"), "issuer"),
    ],
    ids=lambda value: str(value)[:24],
)
async def test_metadata_that_is_refused(authorization: str, reason: str) -> None:
    found = await refusal(Gate(), authorization)
    assert (found.reason, found.is_ours) == (reason, False)
    assert len(str(found)) < 300


async def test_a_storm_with_one_token_costs_one_verification() -> None:
    gate, authorization = Gate(), f"Bearer {t.token()}"
    admissions = await asyncio.gather(*[gate.admitted(authorization) for _ in range(5_000)])
    assert {each.peer for each in admissions} == {Peer(("jwt:corp/web",))}
    assert gate.verified == 1
    assert gate.admit(authorization, pytest.fail) is not None, "known at once"


async def test_a_storm_of_tokens_takes_turns_with_the_event_loop() -> None:
    gate = Gate()
    tokens = [f"Bearer {t.token(sub=f'n{number}')}" for number in range(300)]
    waiting = asyncio.gather(*[gate.admitted(each) for each in tokens])
    seen = []
    while not waiting.done():
        seen.append(gate.verified)
        await turns()
    most = max(after - before for before, after in pairwise(seen))
    assert most < 100, "a few milliseconds of work in each turn, about twelve tokens"
    assert len({each.peer.identity for each in await waiting}) == 300


async def test_slow_algorithms_are_verified_by_a_thread() -> None:
    gate = Gate("ES384")
    admissions = await asyncio.gather(*[gate.admitted(f"Bearer {t.token('ES384', sub=f'n{at}')}") for at in range(5)])
    assert [each.peer.identity for each in admissions] == [(f"jwt:corp/n{at}",) for at in range(5)]
    assert (await refusal(gate, f"Bearer {t.token('ES384', exp=1)}")).reason == "expired"
    gate.stop()


async def test_what_is_remembered_is_bounded_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, authorization = Gate(), f"Bearer {t.token()}"
    await gate.admitted(authorization)
    loop = asyncio.get_running_loop()
    at = loop.time()
    monkeypatch.setattr(loop, "time", lambda: at + 61)
    await gate.admitted(authorization)
    assert gate.verified == 2, "not known any more"
    await asyncio.gather(*[gate.admitted(f"Bearer {t.token(sub=str(each))}") for each in range(50)])
    assert len(gate._known) == 51 <= REMEMBERED_MAX
    assert not [each for each in map(repr, gate._known) if authorization[7:] in each], "only hashes of tokens"


async def test_a_known_token_is_not_taken_beyond_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, authorization = Gate(), f"Bearer {t.token(exp=int(time.time()) + 5)}"
    await gate.admitted(authorization)
    loop = asyncio.get_running_loop()
    at = loop.time()
    monkeypatch.setattr(loop, "time", lambda: at + 16)
    gate.ahead_s = 16
    assert (await refusal(gate, authorization)).reason == "expired"


async def test_a_jump_of_the_clock_moves_no_stream_s_end() -> None:
    gate, authorization = Gate(), f"Bearer {t.token()}"
    before = await gate.admitted(authorization)
    gate.ahead_s = 86_400
    assert (await gate.admitted(authorization)).ends_at == pytest.approx(before.ends_at)


async def test_streams_of_one_token_end_at_different_times() -> None:
    gate, authorization = Gate(jitter_s=30), f"Bearer {t.token()}"
    ends = [(await gate.admitted(authorization)).ends_at for _ in range(200)]
    assert 20 < max(ends) - min(ends) <= 30
    assert len(set(ends)) > 150


async def test_too_many_waiting_tokens_are_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xds.identity.gate.WAITING_MAX", 2)
    gate = Gate()
    outcomes: list[Any] = []
    for number in range(2):
        assert gate.admit(f"Bearer {t.token(sub=str(number))}", outcomes.append) is None
    found = await refusal(gate, f"Bearer {t.token(sub='3')}")
    assert (found.reason, found.is_ours) == ("busy", True)
    await wait_until(lambda: len(outcomes), equals=2)
    assert all(isinstance(each, TokenAdmission) for each in outcomes)


async def test_a_bug_refuses_one_token_and_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    prepare = gate._verifier.prepare
    bad = t.token(sub="bad")

    def fail_once(token: str) -> Any:
        if token == bad:
            raise RuntimeError("a bug")
        return prepare(token)

    monkeypatch.setattr(gate._verifier, "prepare", fail_once)
    first, second = await asyncio.gather(
        refusal(gate, f"Bearer {bad}"), gate.admitted(f"Bearer {t.token()}"), return_exceptions=False
    )
    assert (first.reason, str(first), first.is_ours) == ("internal", "internal error", True)
    assert second.peer == Peer(("jwt:corp/web",))
    assert [str(each) for each in gate.faults] == ["a bug"]


async def test_the_failure_of_one_who_asks_keeps_the_outcome_from_nobody_else() -> None:
    for token, kind in ((t.token(), TokenAdmission), ("x.y.z", RefusedTokenError)):
        gate, told = Gate(), []

        def fail(_: object) -> None:
            raise ValueError("a bug")

        for done in (fail, told.append, fail, told.append):
            assert gate.admit(f"Bearer {token}", done) is None
        await wait_until(lambda told=told: len(told), equals=2)
        assert [type(each) for each in told] == [kind, kind]
        assert [str(each) for each in gate.faults] == ["a bug", "a bug"]


async def test_a_peer_that_can_not_be_made_refuses_the_token() -> None:
    def fail(_: object) -> Peer:
        raise ValueError("a bug")

    gate = Gate(make_peer=fail)
    async with asyncio.timeout(10):
        assert (await refusal(gate, f"Bearer {t.token()}")).reason == "internal"
    assert [str(each) for each in gate.faults] == ["a bug"]
