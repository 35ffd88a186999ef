"""The tables in docs/ordering.md are equal to those in the code."""

from pathlib import Path

from xds.protocol.order import ACTIONS, EVENTS, PHASES, Action, Phase
from xds.protocol.policy import Stage

PAGE = Path(__file__).parents[2] / "docs/ordering.md"
NAMES = {Stage.CLUSTERS: "clusters", Stage.UNORDERED: "endpoints", None: "the client"}
SWITCHES = "listeners, routes"


def rows(heading: str) -> list[tuple[str, ...]]:
    """Return the rows of the table with this heading."""
    lines = PAGE.read_text().splitlines()
    at = lines.index(heading) + 2
    table = []
    while lines[at].startswith("|"):
        table.append(tuple(cell.strip() for cell in lines[at].strip("|").split("|")))
        at += 1
    return table


def test_the_page_has_the_table_of_phases() -> None:
    said = rows("| phase of the client | listeners and routes follow | unused clusters are removed |")
    assert said == [(phase.value, row.follow.value, "yes" if row.breaks else "no") for phase, row in PHASES.items()]
    assert list(PHASES) == list(Phase)


def test_the_page_has_the_table_of_events() -> None:
    listeners = {event: actions for (stage, event), actions in EVENTS.items() if stage is Stage.LISTENERS}
    assert listeners == {event: actions for (stage, event), actions in EVENTS.items() if stage is Stage.ROUTES}
    expected = [
        (NAMES.get(stage, SWITCHES), event.value, "; ".join(action.value for action in actions))
        for (stage, event), actions in EVENTS.items()
        if stage is not Stage.ROUTES
    ]
    assert rows("| of | event | what follows |") == expected


def test_every_action_is_one_that_some_event_has_and_that_does_something() -> None:
    assert set(ACTIONS) == set(Action) == {action for actions in EVENTS.values() for action in actions}
