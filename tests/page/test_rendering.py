"""What templates show: hostile text stays text, times and values have one form."""

from hypothesis import given
from hypothesis import strategies as st
from support.page_scene import HOSTILE

from xds.page.rendering import LONG_CHARACTERS, address, age, environment, load_assets, long_text, time_of, value_text
from xds.reporting.escaping import HIDDEN

ENVIRONMENT = environment(load_assets())
TEMPLATE = ENVIRONMENT.from_string(
    '<p title="{{ text }}">{{ text }}</p>{{ text|text }}{{ text|lines }}{{ text|value }}'
)


@given(st.text() | st.just(HOSTILE))
def test_text_neither_ends_its_element_nor_hides_or_reorders_what_is_around_it(text: str) -> None:
    shown = TEMPLATE.render(text=text)
    assert shown.count("<") == 2  # the paragraph's own
    assert not HIDDEN.search(shown.replace("\n", ""))


def test_hidden_characters_are_shown_as_escapes() -> None:
    shown = ENVIRONMENT.from_string("{{ text }}").render(text="a\u202eb\x1b[31m<")
    assert shown == "a\\u202eb\\x1b[31m&lt;"


def test_an_address_has_its_state_in_the_query() -> None:
    assert address("") == "/page/"
    assert address("nodes", search="a&b=<", group="", state=None) == "/page/nodes?search=a%26b%3D%3C"
    assert address("node", id="x\ud800/ü") == "/page/node?id=x%ED%A0%80%2F%C3%BC"


def test_a_time_is_for_programs_and_for_people() -> None:
    shown = str(time_of(1_700_000_000_123))
    assert shown == '<time datetime="2023-11-14T22:13:20.123Z" data-time>2023-11-14 22:13:20 UTC</time>'
    unknown = '<span class="none">unknown</span>'
    assert [str(time_of(at_ms)) for at_ms in (None, 0, 10**30)] == [unknown] * 3


def test_a_duration_has_its_two_largest_units() -> None:
    told = [age(seconds) for seconds in (None, -1, 0.4, 59.9, 61, 3_600, 90_061)]
    assert told == ["–", "0 s", "0 s", "59 s", "1 min 1 s", "1 h", "1 d 1 h"]


def test_values_and_messages_are_cut() -> None:
    assert value_text({"a": [1, "ü"]}) == "{&#34;a&#34;: [1, &#34;ü&#34;]}"
    assert value_text({"key": "x" * 100}).startswith("{\n  ")
    assert long_text("x" * (LONG_CHARACTERS + 1)).endswith(f"x… ({LONG_CHARACTERS + 1:,} characters)")
    assert long_text("a\nb") == "a\nb"
