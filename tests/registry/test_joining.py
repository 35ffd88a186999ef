"""Each node counts once, however the answers of the processes and the changes of their sessions overlap."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from xds.protocol.convergence import NO_DEBT, Debt, Debts, worst
from xds.registry.joining import ProcessDebts, joined_debts
from xds.registry.known_nodes import NOWHERE, KnownNodes
from xds.registry.session_events import SessionBegan, SessionEnded, SessionEvent, SessionMoved

GONE, REJECTED, OWED = "gone", Debt(0, 3), Debt(5, 0)


class Process:
    """A process with sessions, whose messages to the parent wait until they are delivered."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.sessions: dict[int, tuple[str, str, Debt]] = {}
        self.queue: list[SessionEvent | ProcessDebts] = []
        self.events = self.last = 0

    def say(self, event: SessionEvent) -> None:
        self.events += 1
        self.queue.append(event)

    def begin(self, node_id: str, group: str, debt: Debt) -> None:
        self.last += 1
        self.sessions[self.last] = (node_id, group, debt)
        self.say(SessionBegan(self.last, 0, node_id, group, "", "", (), "", NOWHERE))

    def end(self, session: int) -> None:
        del self.sessions[session]
        self.say(SessionEnded(session, 0, 0, ""))

    def answer(self, doubled: frozenset[str]) -> None:
        by_group: dict[str, dict[Debt, int]] = {}
        for _, group, debt in self.sessions.values():
            counts = by_group.setdefault(group, {})
            counts[debt] = counts.get(debt, 0) + 1
        several = tuple(each for each in self.sessions.values() if each[0] in doubled)
        self.queue.append(ProcessDebts(Debts(revision=9, by_group=by_group), several, self.events))


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "end", "move", "deliver", "deliver", "answer"]),
        st.integers(0, 2),
        st.integers(0, 7),
        st.sampled_from("abcde"),
        st.sampled_from("GH"),
        st.sampled_from([NO_DEBT, OWED, REJECTED]),
    ),
    min_size=5,
    max_size=60,
)


def act(what: str, process: Process, number: int, node_id: str, group: str, debt: Debt) -> None:
    open_sessions = sorted(process.sessions)
    session = open_sessions[number % len(open_sessions)] if open_sessions else None
    if what == "begin":
        process.begin(node_id, group, debt)
    elif session is not None and what == "end":
        process.end(session)
    elif session is not None and what == "move":
        process.sessions[session] = (process.sessions[session][0], group, debt)
        process.say(SessionMoved(session, 0, group))


@settings(deadline=None, max_examples=300)
@given(ACTIONS, ACTIONS)
def test_every_known_node_counts_once_as_it_was_when_its_processes_answered(before, after) -> None:
    known, processes = KnownNodes(), [Process(each) for each in range(3)]
    for what, at, *rest in before:
        act(what, processes[at], *rest)
    for process in processes:  # all is delivered before the question
        known.note(process.number, [event for event in process.queue if not isinstance(event, ProcessDebts)])
        process.queue.clear()
    everyone = frozenset("abcde")
    cut: dict[int, list[tuple[str, str, Debt]]] = {}
    answers: dict[int, ProcessDebts] = {}
    with known.journal() as journal:
        for what, at, *rest in [*after, *(("answer", each, 0, "a", "G", NO_DEBT) for each in range(3))]:
            process = processes[at]
            if what == "answer" and at not in cut:
                cut[at] = list(process.sessions.values())
                process.answer(everyone)
            elif what == "deliver":
                _deliver(process, known, answers)
            else:
                act(what, process, *rest)
        for process in processes:
            while process.number not in answers:
                _deliver(process, known, answers)
        found = joined_debts(answers, known, journal)
    sessions = [each for all_ in cut.values() for each in all_]
    for node_id in everyone:
        debts = [debt for each, _, debt in sessions if each == node_id]
        if debts and known.group_of(node_id) is not None:
            assert worst(debts) in {debt for counts in found.by_group.values() for debt in counts}
    ids = {each for each, _, _ in sessions}
    expected = Counter(worst(debt for each, _, debt in sessions if each == node_id) for node_id in ids)
    total: Counter[Debt] = Counter()
    for counts in found.by_group.values():
        total.update(counts)
    assert total == expected
    gone = {node_id for node_id in everyone if known.group_of(node_id) is not None} - ids
    assert found.gone == Counter(known.group_of(each) for each in gone)


def _deliver(process: Process, known: KnownNodes, answers: dict[int, ProcessDebts]) -> None:
    if process.queue:
        message = process.queue.pop(0)
        if isinstance(message, ProcessDebts):
            answers[process.number] = message
        else:
            known.note(process.number, [message])


def test_a_node_with_several_streams_is_the_worst_of_them() -> None:
    known = KnownNodes()
    process = Process(0)
    for debt in (NO_DEBT, OWED, REJECTED):
        process.begin("n", "G", debt)
    process.begin("m", "G", NO_DEBT)
    known.note(0, [event for event in process.queue if not isinstance(event, ProcessDebts)])
    process.queue.clear()
    process.answer(frozenset(known.doubled))
    (answer,) = process.queue
    assert isinstance(answer, ProcessDebts)
    with known.journal() as journal:
        found = joined_debts({0: answer}, known, journal)
    assert found.by_group == {"G": {Debt(0, 3): 1, NO_DEBT: 1}}
    assert [tuple(found.at(revision)) for revision in (2, 3, 5)] == [(2, 0, 0), (1, 0, 1), (1, 0, 1)]


def test_the_nodes_of_a_worker_that_died_while_it_was_asked_are_gone() -> None:
    known, first, second = KnownNodes(), Process(1), Process(2)
    first.begin("a", "G", NO_DEBT)
    second.begin("b", "G", NO_DEBT)
    for process in (first, second):
        known.note(process.number, [event for event in process.queue if not isinstance(event, ProcessDebts)])
        process.queue.clear()
        process.answer(frozenset())
    (answer,) = first.queue
    assert isinstance(answer, ProcessDebts)
    with known.journal() as journal:
        known.end_process(2, 5)
        known.note(3, [SessionBegan(1, 6, "b", "G", "", "", (), "", NOWHERE)])  # it returned to the next worker
        found = joined_debts({1: answer}, known, journal)
    assert (found.by_group, found.gone) == ({"G": {NO_DEBT: 1}}, {"G": 1})
