"""The checker of write histories finds what it is there to find."""

import pytest
from immutables import Map
from support.write_history import Call, Entry, Made, NotLinearizableError, Read, Refused, check
from support.write_model import CONFLICT, DEFAULT, UNKNOWN, WRONG, Op, State, outcome, shown


def put(name: str, content: str = "1", *, id: str = "", expected: int | None = None) -> Op:  # noqa: A002
    return Op(kind="apply", id=id or f"{name}{content}", sets=(("clusters", name, content),), expected=expected)


def has(**contents: str) -> State:
    return State(resources=Map({(DEFAULT, "clusters", name): content for name, content in contents.items()}))


def call(op: Op, asked: float, answered: float, answer: Made | Refused | Read | None, server: int = 0) -> Call:
    return Call(op, server, asked, answered, answer)


A, B = put("a"), put("b")
ENTRIES = [Entry("a1", has(a="1")), Entry("b1", has(a="1", b="1"))]
BOTH = [call(A, 0, 1, Made(1)), call(B, 0, 2, Made(2))]
G = Op(kind="put_group", group="g")
DELETE_G = Op(kind="delete_group", group="g")


def test_what_is_linearizable_passes_with_its_figures() -> None:
    history = [
        *BOTH,
        call(A, 1.5, 3, Made(2)),
        call(A, 3, 4, Made(1, again=True)),
        call(put("c", expected=1), 3, 4, Refused(CONFLICT, 2)),
        call(DELETE_G, 3, 4, Refused(UNKNOWN)),
        call(Op(kind="delete_group"), 3, 4, Refused(WRONG)),
        call(Op(kind="read", of_group=True), 3, 4, Read(2, has(a="1", b="1").of(DEFAULT))),
        call(put("d"), 3, 4, None),
    ]
    figures = check(history, ENTRIES)
    assert (figures.made, figures.unchanged, figures.again, figures.reads, figures.unknown) == (2, 1, 1, 1, 1)
    assert figures.refused == {CONFLICT: 1, UNKNOWN: 1, WRONG: 1}


@pytest.mark.parametrize(
    ("history", "entries"),
    [
        ([*BOTH, call(put("c"), 2, 3, Made(3))], ENTRIES),
        ([call(A, 0, 1, Made(1)), call(B, 0, 2, Made(2))], [ENTRIES[0], Entry("b1", has(b="1"))]),
        (BOTH, [*ENTRIES, Entry("a1", has(a="1", b="1"))]),
        ([call(A, 0, 1, Made(1)), call(B, 0, 2, Made(1))], ENTRIES[:1]),
        ([call(A, 3, 4, Made(1)), call(B, 0, 2, Made(2))], ENTRIES),
        ([*BOTH, call(put("a", id="x"), 3, 4, Made(1))], ENTRIES),
        ([*BOTH, call(put("b", "2", id="x"), 3, 4, Made(2, again=True))], ENTRIES),
        ([*BOTH, call(put("c", expected=2), 3, 4, Refused(CONFLICT, 2))], ENTRIES),
        ([*BOTH, call(put("c", expected=0), 3, 4, Refused(CONFLICT, 1))], ENTRIES),
        ([*BOTH, call(Op(kind="rollback", to=1), 3, 4, Refused(UNKNOWN))], ENTRIES),
        ([*BOTH, call(Op(kind="read", of_group=True), 3, 4, Read(2, {}))], ENTRIES),
        ([*BOTH, call(Op(kind="read", of_group=True), 3, 4, Read(1, has(a="1").of(DEFAULT)))], ENTRIES),
        ([*BOTH, call(A, 3, 4, Made(0))], ENTRIES),
    ],
    ids=[
        *("lost", "overwritten", "doubled", "not there", "order of time", "unchanged long ago", "another id"),
        *("no conflict", "conflict of before", "refused without reason", "read wrong", "read old", "empty state"),
    ],
)
def test_what_is_not_linearizable_is_found(history: list[Call], entries: list[Entry]) -> None:
    with pytest.raises(NotLinearizableError):
        check(history, entries)


def test_refusals_have_an_order_too() -> None:
    """The group is there at revision 1 alone: who finds it missing after another found it there comes too early."""
    group = State(groups=frozenset({DEFAULT, "g"}))
    entries = [Entry("g", group), Entry("b1", State(has(b="1").resources, group.groups))]
    base = Op(kind="put_group", group="h", extends="g", dry_run=True)
    history = [call(G, 0, 10, Made(1)), call(B, 0, 10, Made(2))]
    check([*history, call(base, 1, 2, Refused(UNKNOWN)), call(DELETE_G, 3, 4, Refused(UNKNOWN))], entries)
    with pytest.raises(NotLinearizableError):
        check(
            [*history, call(Op(kind="replace", dry_run=True), 1, 2, Made(1)), call(DELETE_G, 3, 4, Refused(UNKNOWN))],
            entries,
        )


def test_reads_of_another_replica_may_be_older_and_never_go_back() -> None:
    read = Op(kind="read", of_group=True)
    old, new = Read(1, has(a="1").of(DEFAULT)), Read(2, has(a="1", b="1").of(DEFAULT))
    check([*BOTH, call(read, 3, 4, old, server=1), call(read, 5, 6, new, server=1)], ENTRIES)
    with pytest.raises(NotLinearizableError):
        check([*BOTH, call(read, 3, 4, new, server=1), call(read, 5, 6, old, server=1)], ENTRIES)


def test_merged_pushes_make_an_entry_together() -> None:
    pushes = [Op(kind="push", id=name, sets=(("endpoints", name, "1"),)) for name in "ab"]
    state = State(resources=Map({(DEFAULT, "endpoints", name): "1" for name in "ab"}))
    calls = [call(op, 0, 1, Made(1)) for op in pushes]
    assert check(calls, [Entry("x", state)]).made == 2
    with pytest.raises(NotLinearizableError):
        check(calls[:1], [Entry("x", state)])


@pytest.mark.parametrize(
    ("state", "op", "expected"),
    [
        (State(), Op(kind="apply", group="g", removes=(("clusters", "a"),)), UNKNOWN),
        (State(), Op(kind="apply", sets=(("routes", "r", "a"),)), WRONG),
        (has(a="1"), Op(kind="apply", group="g", sets=(("routes", "r", "a"),)), WRONG),
        (State(external=("a",)), Op(kind="put_rules", external=()), State()),
        (State(), Op(kind="put_rules", rules=("g",)), WRONG),
        (State(), Op(kind="put_group", group="g", extends="h"), UNKNOWN),
        (State(), Op(kind="put_group", extends=DEFAULT), WRONG),
        (State(external=("a",)), Op(kind="update_rules", add_external=("b",)), State(external=("a", "b"))),
        (has(a="1"), Op(kind="replace"), State()),
        (has(a="1"), Op(kind="rollback", to=0), has(a="1")),
    ],
)
def test_the_model_says_what_an_operation_leads_to(state: State, op: Op, expected: State | int) -> None:
    assert outcome([state], 0, op) == expected


def test_a_read_shows_groups_and_rules_or_what_a_group_has() -> None:
    state = State(has(a="1").resources, rules=(DEFAULT,))
    assert shown(state, Op(kind="read")) == (frozenset({DEFAULT}), {}, (DEFAULT,), ())
    assert shown(state, Op(kind="read", of_group=True)) == {(DEFAULT, "clusters", "a"): "1"}
