"""Content-Type headers: what they name, and that whatever is written in them is read in one pass."""

import re

import pytest

from xds.api import media_types
from xds.api.media_types import CHARACTERS_MAX, UnknownMediaTypeError, media_type_of


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("application/json", ("application/json", {})),
        (" Application/JSON ;", ("application/json", {})),
        ("application/json; charset=UTF-8", ("application/json", {"charset": "UTF-8"})),
        ("application/json;;; charset;a=1;A=2", ("application/json", {"charset": "", "a": "1"})),
        ("application/merge-patch+json", ("application/merge-patch+json", {})),
        ('application/x-protobuf; messageType="a.b.C"', ("application/x-protobuf", {"messagetype": "a.b.C"})),
        (
            "application/x-protobuf;messageType=x/a.b.C ; b=c",
            ("application/x-protobuf", {"messagetype": "x/a.b.C", "b": "c"}),
        ),
        (r'text/yaml; a="x;\"y\\"', ("text/yaml", {"a": r"x;\"y\\".replace(r"\"", '"').replace(r"\\", "\\")})),
    ],
)
def test_a_media_type_is_read_with_its_parameters(written: str, read: tuple[str, dict[str, str]]) -> None:
    assert media_type_of(written) == read


@pytest.mark.parametrize(
    "written",
    [
        "",
        "  ",
        "json",
        "application/",
        "/json",
        "application/json text",
        'a/b; c="d',
        "a/b; =c",
        "application/json " + "(" * 900,
    ],
)
def test_what_is_no_media_type_is_refused(written: str) -> None:
    with pytest.raises(UnknownMediaTypeError, match="send application/json, application/yaml or"):
        media_type_of(written)


def test_a_long_one_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_types, "_TYPE", None)
    with pytest.raises(UnknownMediaTypeError, match=r"has 1,001 characters, more than the 1,000 allowed"):
        media_type_of("a/b" + ";" * (CHARACTERS_MAX - 2))


def test_each_parameter_is_matched_once_where_the_one_before_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting:
        places: list[int] = []

        def match(self, text: str, at: int) -> re.Match[str] | None:
            self.places.append(at)
            return parameter.match(text, at)

    parameter = media_types._PARAMETER
    monkeypatch.setattr(media_types, "_PARAMETER", Counting())
    assert media_type_of("a/b" + ";" * (CHARACTERS_MAX - 3)) == ("a/b", {})
    assert Counting.places == list(range(3, CHARACTERS_MAX))
