"""Callers are told apart by their names, whatever characters these have."""

from pathlib import Path

import pytest

from xds.access.authenticator import Authenticator
from xds.access.errors import UnauthenticatedError
from xds.access.identities import Entry, Identities
from xds.access.rights import Grant
from xds.model.identity import parse_identity_pattern

LISTED = Identities((Entry(parse_identity_pattern("cn:*"), (Grant(("read",), ()),)),))
NAMES = (
    "cn:ann",
    "cn:an n",
    "cn:an%20n",
    "cn:an\u00a0n",
    "cn:an\tn",
    "cn:an\nn",
    "cn:an\x00n",
    "cn:an\u2003n",
    "cn:ann ",
)


def identity(name: str) -> str:
    caller = LISTED.caller((name,))
    assert caller is not None
    return caller.identity


def test_different_names_are_different_identities() -> None:
    assert len(set(map(identity, NAMES))) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_identity_is_one_word(name: str) -> None:
    assert identity(name).split() == [identity(name)]
    assert identity(name).isprintable()


def test_a_name_in_one_word_is_the_identity() -> None:
    for name in ("cn:ann", "spiffe://corp/ns/web/sa/front", "cn:Zo\u00eb", "cn:\u5f20"):
        listed = Identities((Entry(parse_identity_pattern(name), ()),))
        caller = listed.caller((name,))
        assert caller is not None
        assert caller.identity == name


def test_a_name_without_an_entry_is_one_word_too(tmp_path: Path) -> None:
    path = tmp_path / "identities.yaml"
    path.write_text("callers: []\n")
    told = set()
    for names in (("cn:a b",), ("cn:ab",), ("cn:a%20b",), ("cn:a", "cn:b")):
        authenticator = Authenticator(identities_file=path, names_of=lambda _, names=names: names)
        with pytest.raises(UnauthenticatedError) as refused:
            authenticator.authenticate("", (b"certificate",))
        assert refused.value.who.split() == [refused.value.who]
        told.add(refused.value.who)
    assert told == {"cn:a%20b", "cn:ab", "cn:a%2520b", "cn:a,cn:b"}
