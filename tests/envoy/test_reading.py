"""A value is read as a real Envoy reads it: taken with the same value, or refused; in YAML and in JSON.

``XDS_READING_CASES`` and ``XDS_READING_SEED`` set the length and the seed of the run by chance (``make fuzz-reading``).
"""

import asyncio
import json
import os
import random
from typing import Any

import pytest
from google.protobuf import json_format
from support.envoy_reading import ROUTE, UNPRINTABLE, Judgement, ReadingEnvoy
from support.spellings import KINDS, SPELLINGS

from xds.model.problem import ChangesetRejectedError
from xds.schema.convert import ConversionError, message_from_json
from xds.schema.pool import load_schema
from xds.sources.json_reader import read_json
from xds.sources.yaml_reader import YamlLimits, read_yaml_documents

pytestmark = pytest.mark.envoy

CASES = int(os.environ.get("XDS_READING_CASES", "1200"))
SEED = int(os.environ.get("XDS_READING_SEED", "0")) or random.randrange(1, 2**32)
LENIENT = YamlLimits(strict=False)
ROUTE_NAME = ROUTE.rpartition("/")[2]

NO_SUCH_TIME = "a time that does not exist: Envoy counts on to the next day or hour"
TWICE = "a field or key twice: Envoy takes one of them, in some cases by chance"
OUT_OF_RANGE = "nanos or seconds out of range: Envoy refuses them later, as our rules do (tests/schema/test_rules.py)"
STRICTER = {
    ("timestamp", "2026-02-30T12:00:00Z"): NO_SUCH_TIME,
    ("timestamp", "2026-01-31T23:59:60Z"): NO_SUCH_TIME,
    ("timestamp", "2026-01-31T24:00:00Z"): NO_SUCH_TIME,
    ("timestamp", "2026-13-01T00:00:00Z"): NO_SUCH_TIME,
    ("timestamp", "2100-02-29T00:00:00Z"): NO_SUCH_TIME,
    ("timestamp", "2026-01-31T12:60:00Z"): NO_SUCH_TIME,
    ("timestamp", "9999-12-31T23:59:59-01:00"): "a time after the year 9999, which Envoy can't print",
    ("timestamp", "0001-01-01T00:00:00+01:00"): "a time before the year 1, which Envoy can't print",
    ("map_int", '{1: 2, "01": 3}'): TWICE,
    ("sub", "{sub_zone: a, subZone: b}"): TWICE,
}
"""What Envoy takes and we refuse, with the reason; docs/directory.md lists it."""


def text_of(kind: str, value: str, suffix: str) -> str:
    """Return a file with one route configuration, in whose metadata a field of the kind has this value."""
    full_name, field = KINDS[kind]
    inner = f'{{"@type": "type.googleapis.com/{full_name}", "{field}": {value}}}'
    metadata = f'{{"typed_filter_metadata": {{"a": {inner}}}}}'
    if suffix == "json":
        return f'{{"resources": [{{"@type": "{ROUTE}", "name": "NAME", "metadata": {metadata}}}]}}'
    return f'resources:\n- "@type": {ROUTE}\n  name: NAME\n  metadata: {metadata}\n'


def ours(text: str, suffix: str) -> bytes | str:
    """Return what we make of a file: the message of its resource, or our words."""
    try:
        if suffix == "json":
            value = read_json(text.encode(), file="f.json", limits=LENIENT).value
        else:
            value = read_yaml_documents(text.encode(), file="f.yaml", limits=LENIENT)[0].value
        message: Any = message_from_json(load_schema(), value["resources"][0], full_name=ROUTE_NAME)
    except (ChangesetRejectedError, ConversionError) as error:
        return str(error)
    except TypeError:
        return "not a mapping with resources"
    message.name = "NAME"
    return canonical(message)


def envoys(judgement: Judgement) -> bytes | str:
    """Return what Envoy made of it, in the same form; its JSON is parsed by protobuf's own parser where that can."""
    if not judgement.is_accepted or judgement.value == UNPRINTABLE:
        return judgement.words or UNPRINTABLE
    value = {key: item for key, item in judgement.value.items() if key != "@type"} | {"name": "NAME"}
    message: Any = load_schema().message_class(ROUTE_NAME)()
    try:
        json_format.ParseDict(value, message, descriptor_pool=load_schema().pool)
    except json_format.ParseError:  # infinities in 32 bits
        message = message_from_json(load_schema(), value, full_name=ROUTE_NAME)
    return canonical(message)


def canonical(message: Any) -> bytes:
    """Return a route configuration's bytes; protobuf's parser leaves the order of maps in an Any to chance."""
    for packed in message.metadata.typed_filter_metadata.values():
        inner: Any = load_schema().message_class(packed.type_url.rpartition("/")[2]).FromString(packed.value)
        packed.value = inner.SerializeToString(deterministic=True)
    return bytes(message.SerializeToString(deterministic=True))


def difference(judgement: Judgement, text: str, suffix: str) -> str:
    """Return how Envoy and we differ, "" if we don't."""
    theirs, own = envoys(judgement), ours(text, suffix)
    if isinstance(own, str):
        is_same = not judgement.is_accepted
        return "" if is_same else f"Envoy takes it as {judgement.value}; we refuse it: {own}"
    if theirs == UNPRINTABLE:
        return ""
    if isinstance(theirs, str):
        return f"Envoy refuses it ({theirs[-160:]}); we take it"
    return "" if theirs == own else f"Envoy has {theirs!r}, we have {own!r}"


def differences(cases: list[tuple[str, str]], suffix: str) -> dict[tuple[str, str], str]:
    async def judged() -> list[Judgement]:
        async with ReadingEnvoy(suffix) as envoy:
            return await envoy.judge(texts)

    texts = [text_of(kind, value, suffix) for kind, value in cases]
    judgements = asyncio.run(judged())
    found = {case: difference(*each, suffix) for case, *each in zip(cases, judgements, texts, strict=True)}
    return {case: what for case, what in found.items() if what}


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_every_spelling_is_read_as_envoy_reads_it(suffix: str) -> None:
    cases = [(kind, text) for kind, texts in SPELLINGS.items() for text in texts if suffix == "yaml" or is_json(text)]
    found = differences(cases, suffix)

    assert {case: what for case, what in found.items() if case not in STRICTER} == {}
    assert [case for case in STRICTER if case in cases and case not in found] == [], "Envoy refuses it too: drop it"


STRUCTS = {
    "an ignored key": "{!ignore p: &x 5, q: *x}",
    "an ignored key in quotes": "{!ignore 'p': &x 5, q: *x}",
    "a key twice": "{p: 1, p: 2}",
    "an anchor twice": "{p: &a 1, q: *a, r: &a 2, s: *a}",
    "a list as a key": "{[a]: 1}",
    "a question mark": "{? p : 1}",
    "a key without value": "{p}",
    "null as a key": "{null: 1, true: 2, 5: 3}",
    "an alias as a key": "{&k p: 1, b: {*k : 2}}",
    "a tab between": "{p:\t1}",
    "no such anchor": "{p: *zz}",
    "escapes": '{p: "\\u00e9\\x41\\t\\e\\0\\/"}',
    "half a surrogate": '{p: "\\ud83d\\ude00"}',
    "tags": "{a: !!str 5, b: !x y, c: !!null '', d: ! 7, e: !!int '5', f: !!float 1.50, g: !!bool 'n'}",
    "tags of lists": "{p: !!seq [1], q: !x {a: 1}, r: !!set {a}}",
    "colons": "{p: :method, q: [:a, a:b], r: 'x:', \"s\":1}",
    "an indicator": "{p: @a}",
    "a comma at the end": "{p: [1,], }",
    "33 levels": "{p: " + "[" * 33 + "]" * 33 + "}",
    "blocks": "\n        p: |\n          5\n        q: >-\n          true\n        r: a\n          b",
    "quotes over lines": '\n        s: "5\n          6"',
    "lists without indentation": "\n        p:\n        - 1\n        - - 2",
    "a comment": "{p: a#b, q: a } # c",
}
WHOLE_FILES = {
    **{
        name: f"resources:\n- ROUTE\n  metadata:\n    filter_metadata:\n      a: {text}\n"
        for name, text in STRUCTS.items()
    },
    "anchors": "!ignore x: &x {p: 1}\nresources:\n- ROUTE\n  metadata: {filter_metadata: {a: *x}}\n",
    "a second document": "resources:\n- ROUTE\n---\nresources: []\n",
    "an empty document at the end": "resources:\n- ROUTE\n---\n",
    "a document end": "---\nresources:\n- ROUTE\n...\n",
    "a directive": "%YAML 1.2\n---\nresources:\n- ROUTE\n",
    "a byte order mark": "\ufeffresources:\n- ROUTE\n",
    "a tab as indentation": "resources:\n- ROUTE\n  metadata:\n\tfilter_metadata: {}\n",
    "carriage returns": "resources:\r\n- ROUTE\r\n  metadata: {filter_metadata: {a: {p: 1}}}\r\n",
    "nulls": "resources:\n- ROUTE\n  metadata: ~\n  vhds:\n",
    "JSON": '{"resources": [{"@type": "URL", "name": "NAME", "metadata": {"filter_metadata": {"a": {"b": 1.10}}}}]}',
}


def test_every_form_of_a_yaml_file_is_read_as_envoy_reads_it() -> None:
    async def judged() -> list[Judgement]:
        async with ReadingEnvoy("yaml") as envoy:
            return await envoy.judge(texts)

    head = f'"@type": {ROUTE}\n  name: NAME'
    texts = [text.replace("ROUTE", head).replace("URL", ROUTE) for text in WHOLE_FILES.values()]
    judgements = asyncio.run(judged())
    found = {name: difference(*each, "yaml") for name, *each in zip(WHOLE_FILES, judgements, texts, strict=True)}

    assert {name: what for name, what in found.items() if what} == {}


JSON_FORMS = (
    *(
        "'x'",
        "'x\\'y'",
        '"x\\\'y"',
        "'x\"y'",
        "''",
        "{'a b': 1}",
        "{a: 1}",
        "{a_1 : 1}",
        "{_1: 1}",
        "{nullx: 1}",
        '"\\U0041"',
    ),
    *(
        "{a.b: 1}",
        "{a-b: 1}",
        "{$a: 1}",
        "{1: 1}",
        "{true: 1}",
        "{null: 1}",
        "{é: 1}",
        '{"a": 1 "b": 2}',
        "[1 2]",
        "[1;2]",
    ),
    *("[1,]", '{"a": 1,}', "[1 ,\n ]", "[,]", "[1,,]", "{,}", "{a: {b: [1,{c: 'd',},],},}", "// c\n1", "1 /* c */"),
    *(
        '"a\tb"',
        '"a\nb"',
        '"\\x41"',
        '"\\ud83d\\ude00"',
        '"\\ud83d"',
        '"\\ude00"',
        '"\\q"',
        '"\\/\\b\\f"',
        '"\\0"',
        '"\x7f"',
        '"open',
    ),
    *(
        "01",
        "-01",
        "+1",
        ".5",
        "5.",
        "1e",
        "0x10",
        "-",
        "1.5E+2",
        "-0",
        "-0.0",
        "1_0",
        "1a",
        "NaN",
        "Infinity",
        "True",
        "nul",
    ),
    *("9" * 400, "1" + "0" * 308, "1" + "0" * 400, "\ufeff1", "\x0b1", "\u00a01", "truefalse"),
)
JSON_FILES = (
    *('{resources: [{"@type": "URL", name: "NAME"}]}', "{'resources': [{'@type': 'URL', 'name': 'NAME',},],}"),
    *('{"resources": [{"@type": "URL", "name": "NAME"}]}{}', '[{"@type": "URL", "name": "NAME"}]'),
)


def test_every_form_of_json_is_read_as_envoy_reads_it() -> None:
    async def judged() -> list[Judgement]:
        async with ReadingEnvoy("json") as envoy:
            return await envoy.judge(texts)

    head = f'{{"resources": [{{"@type": "{ROUTE}", "name": "NAME", "metadata": {{"filter_metadata": {{"a": {{"v": '
    texts = [head + form + "}}}}]}" for form in JSON_FORMS] + [text.replace("URL", ROUTE) for text in JSON_FILES]
    judgements = asyncio.run(judged())
    found = {text: difference(judgement, text, "json") for text, judgement in zip(texts, judgements, strict=True)}

    assert {text[-60:]: what for text, what in found.items() if what} == {}


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_spellings_by_chance_are_read_as_envoy_reads_them(suffix: str) -> None:
    chance = random.Random(SEED)
    cases = [_by_chance(chance, suffix) for _ in range(CASES)]
    found = {case: what for case, what in differences(cases, suffix).items() if not _is_explained(case, what)}

    assert found == {}, f"XDS_READING_SEED={SEED}"


_SIGNS = ("", "", "", "-", "+", " ", "--", "0", "00", "0x", "0X", "-0x", ".", "+.")
_DIGITS = (
    "0",
    "1",
    "5",
    "7",
    "8",
    "9",
    "10",
    "017",
    "255",
    "1_0",
    "4294967295",
    "9007199254740993",
    "9223372036854775807",
    "１",
    "f",
)
_TAILS = (
    "",
    "",
    "",
    ".",
    ".0",
    ".5",
    ".50",
    "e2",
    "E-2",
    "e+400",
    "s",
    "ms",
    ".123456789s",
    ".1234567891s",
    " ",
    "L",
    "f",
    "%",
    "p1",
)
_WORDS = (
    "true",
    "True",
    "TRUE",
    "tRue",
    "yes",
    "y",
    "N",
    "off",
    "t",
    "f",
    "null",
    "Null",
    "~",
    "nan",
    "NaN",
    "Infinity",
    "-inf",
    "",
)
_ENUMS = (
    "TCP",
    "tcp",
    "Udp",
    "UDP ",
    "HEALTHY",
    "healthy",
    "Unhealthy",
    "DRAINING",
    "draining",
    "1",
    "-1",
    "+1",
    "0x1",
)
_BYTES = ("aGk=", "aGk", "aG", "a", "aGl=", "a-_/", "====", "=", "a===", "aGkaGk", "aGk=aGk=", "aH==", "aH", "\u00e9")


def _by_chance(chance: random.Random, suffix: str) -> tuple[str, str]:
    kind = chance.choice([kind for kind in KINDS if kind not in ("Any", "sub", "rep_msg", "Empty", "map_int")])
    word = chance.choice((_number, _word, _time))(chance)
    text = (
        word if suffix == "yaml" and _is_plain(word) and chance.random() < 0.6 else json.dumps(word, ensure_ascii=False)
    )
    if suffix == "json" and chance.random() < 0.5 and is_json(word) and word.lower() not in ("nan", "infinity"):
        text = word
    wrap = chance.random()
    if wrap < 0.1:
        text = f"[{text}]"
    elif wrap < 0.2:
        text = f'{{"{chance.choice(("value", "seconds", "nanos", "a"))}": {text}}}'
    return kind, text


def _number(chance: random.Random) -> str:
    return chance.choice(_SIGNS) + chance.choice(_DIGITS) + chance.choice(_TAILS)


def _word(chance: random.Random) -> str:
    return chance.choice((*_WORDS, *_ENUMS, *_BYTES))


def _time(chance: random.Random) -> str:
    date = f"{chance.randrange(1, 9999):04}-{chance.randrange(1, 14):02}-{chance.randrange(1, 32):02}"
    time = f"{chance.randrange(26):02}:{chance.randrange(62):02}:{chance.randrange(62):02}"
    fraction, zone = chance.choice(("", "", ".5", ".123456789")), chance.choice(("Z", "z", "", "+01:30", "-23:00"))
    return f"{date}{chance.choice('TTTt ')}{time}{fraction}{zone}"


def _is_plain(word: str) -> bool:
    return bool(word) and not set(word) & set("%=~ ") and word[0] not in "-.+" and not word.endswith(":")


def _is_explained(case: tuple[str, str], what: str) -> bool:
    kind, text = case
    return kind == "timestamp" and what.startswith("Envoy takes it") and "T" in text
