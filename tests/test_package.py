"""The package, built from a clean copy of the source and installed into an empty environment, is a working ``xds``.

It is built from a copy because the build hook writes into ``xds/_generated``, which other tests read meanwhile. The
dependencies are the newest of the registry, as for a user who installs it today. ``make release`` sets
``XDS_TEST_DIST`` to the directory of the sdist and the wheel that it built: then both are installed and tested.
"""

import asyncio
import json
import os
import shutil
import signal
import tarfile
import zipfile
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest
from support.fetch import fetch
from support.processes import Child
from support.wheel import COMMAND_TIMEOUT_S, PURE_ENVIRONMENT, ROOT, UV, make_environment, run

DIST = os.environ.get("XDS_TEST_DIST")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3 * COMMAND_TIMEOUT_S),
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="what belongs to the package is what git tracks"),
]


class Built(NamedTuple):
    """The files of a release."""

    sdist: Path
    wheel: Path


def tracked() -> set[str]:
    """Return the files that belong in the sdist: what git tracks; for the test's own build, new files as well."""
    which = ["--cached"] if DIST else ["--cached", "--others", "--exclude-standard"]
    listed = run("git", "ls-files", "-z", *which, cwd=ROOT)
    return {name for name in listed.split("\0") if name and (ROOT / name).exists()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The sdist, and the wheel that the backend builds from it in an isolated environment."""
    target = Path(DIST).absolute() if DIST else tmp_path_factory.mktemp("dist")
    if not DIST:
        source = tmp_path_factory.mktemp("source")
        for name in tracked():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
        run(UV, "build", "--quiet", "--out-dir", target, source, cwd=source)
    ((sdist,), (wheel,)) = target.glob("*.tar.gz"), target.glob("*.whl")
    return Built(sdist, wheel)


@pytest.fixture(scope="module")
def wheel(built: Built) -> Path:
    return built.wheel


@pytest.fixture(scope="module", params=["sdist", "wheel"] if DIST else ["wheel"])
def environment(built: Built, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """An environment into which only the sdist or the wheel is installed."""
    made = tmp_path_factory.mktemp("environment") / "venv"
    python = make_environment(made)
    run(UV, "pip", "install", "--quiet", "--python", python, getattr(built, request.param), cwd=made.parent)
    return made


def test_the_sdist_has_what_git_tracks_and_the_schema_and_nothing_else(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {PurePosixPath(member.name) for member in archive if not member.isdir()}
    assert {name.parts[0] for name in names} == {built.sdist.name.removesuffix(".tar.gz")}
    inside = {str(PurePosixPath(*name.parts[1:])) for name in names}
    # What an sdist has so that building from it needs neither Envoy nor xds-protos.
    schema = {"xds/_generated/envoy.binpb", "xds/_generated/envoy.json"}
    expected = tracked() | schema | {"PKG-INFO"}
    assert (sorted(inside - expected), sorted(expected - inside)) == ([], [])


def test_the_wheel_brings_no_top_level_package_but_xds(wheel: Path) -> None:
    top = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    (info,) = (name for name in top if name.endswith(".dist-info"))
    assert top == {"xds", info}


def test_the_wheel_has_what_the_build_hook_makes_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        f"xds/_generated/{name}" for name in ("__init__.py", "envoy.binpb", "envoy.json", "xds_wire_pb2.py")
    } <= names
    assert not [name for name in names if "test" in name or "__pycache__" in name]


def test_it_is_marked_as_typed(wheel: Path) -> None:
    assert "xds/py.typed" in zipfile.ZipFile(wheel).namelist()


def test_every_module_that_is_installed_imports(environment: Path, tmp_path: Path) -> None:
    program = """
import importlib, pathlib, pkgutil, xds
needs_extra = {"xds.telemetry.traces": "opentelemetry"}
for module in pkgutil.walk_packages(xds.__path__, "xds."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if not error.name.startswith(needs_extra.pop(module.name, "-")):
            raise
assert not needs_extra, f"these need their extras no more: {needs_extra}"
print(pathlib.Path(xds.__file__).parent.parent)
"""
    place = run(environment / "bin" / "python", "-W", "error", "-c", program, cwd=tmp_path).strip()
    assert Path(place).is_relative_to(environment)


def test_google_s_package_of_the_same_name_is_not_in_the_environment(environment: Path) -> None:
    listed = run(UV, "pip", "list", "--format", "json", "--python", environment / "bin" / "python", cwd=environment)
    packages = {package["name"] for package in json.loads(listed.splitlines()[-1])}
    assert "xds-control-plane" in packages
    assert "xds-protos" not in packages
    assert "grpcio-tools" not in packages


@pytest.mark.parametrize("asked", ["version", "--version"])
def test_xds_version(environment: Path, built: Built, tmp_path: Path, asked: str) -> None:
    lines = run(environment / "bin" / "xds", asked, cwd=tmp_path).splitlines()
    assert lines[0] == f"xds {built.wheel.name.split('-')[1]}"


def test_xds_validate(environment: Path, tmp_path: Path) -> None:
    said = run(environment / "bin" / "xds", "validate", ROOT / "snapshots" / "quickstart", cwd=tmp_path)
    assert "clusters" in said


async def test_xds_serve(environment: Path, tmp_path: Path) -> None:
    serve = [str(environment / "bin" / "xds"), "serve", str(ROOT / "snapshots" / "quickstart")]
    anywhere = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--api", "127.0.0.1:0", "--log-format", "json"]
    child = Child([*serve, *anywhere], name="installed")
    child.env = {**PURE_ENVIRONMENT, "XDG_STATE_HOME": str(tmp_path)}
    async with child:
        log = await child.wait_log('"serving"', timeout_s=20)
        (serving,) = (event for event in map(json.loads, log.splitlines()) if event["event"] == "serving")
        assert serving["resources"]["default"]["clusters"] > 0
        assert (await fetch(int(serving["admin"].rpartition(":")[2]), "/readyz")).status == 200
        xds = partial(asyncio.to_thread, run, environment / "bin" / "xds", cwd=tmp_path)
        assert "verified: 2 of 2 sidecars equal" in await xds("fleet", "--server", serving["listen"], "--streams", "2")
        assert (await xds("history", "--api", serving["api"])).splitlines()[1].split()[0] == "1"
        child.signal(signal.SIGTERM)
        assert await child.wait_ended() == 0
