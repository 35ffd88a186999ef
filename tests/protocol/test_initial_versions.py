"""Claims: what a client has from an earlier stream is one object for all who have the same."""

from support.encoded import CDS, RDS

from xds.protocol.diff import InitialVersions


def test_equal_claims_are_one_object_for_as_long_as_it_is_held() -> None:
    claims = InitialVersions()
    first = claims.get(CDS, "a", "1")
    assert claims.get(CDS, "a", "1") is first
    others = [claims.get(CDS, "a", "2"), claims.get(CDS, "b", "1"), claims.get(RDS, "a", "1")]
    assert len({id(claim) for claim in (first, *others)}) == 4
    assert (first.is_version_only, first.name, first.version, len(claims)) == (True, "a", "1", 4)
    del first, others
    assert len(claims) == 0
