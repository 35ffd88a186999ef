"""Reported versions of an earlier stream: equal ones are one object."""

from support.encoded import CDS, RDS

from xds.protocol.diff import InitialVersions


def test_equal_reported_versions_are_one_object_while_it_is_held() -> None:
    versions = InitialVersions()
    first = versions.get(CDS, "a", "1")
    assert versions.get(CDS, "a", "1") is first
    others = [versions.get(CDS, "a", "2"), versions.get(CDS, "b", "1"), versions.get(RDS, "a", "1")]
    assert len({id(each) for each in (first, *others)}) == 4
    assert (first.is_version_only, first.name, first.version, len(versions)) == (True, "a", "1", 4)
    del first, others
    assert len(versions) == 0
