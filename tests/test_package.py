"""The wheel, built from a clean copy of the source and installed into an empty environment, is a working ``xds``.

It is built from a copy because the build hook writes into ``xds/_generated``, which other tests read meanwhile. The
dependencies are whatever the registry has now, as they are for a user who installs it today.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.fetch import fetch
from support.processes import Child

ROOT = Path(__file__).parent.parent
UV = str(Path(sys.executable).parent / "uv")
COMMAND_TIMEOUT_S = 50
SOURCES = ("xds", "protos", "hatch_build.py", "pyproject.toml", "README.md", "LICENSE")
BUILT = ("_generated", "__pycache__")
OTHERS_VARIABLES = ("XDS_", "PYTHON", "VIRTUAL_ENV", "COVERAGE_")
PURE_ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith(OTHERS_VARIABLES)}

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command where no source of ours is near, and return what it prints; failing, it shows all it said."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=PURE_ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by the backend in its isolated environment."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns(*BUILT))
        else:
            shutil.copy(ROOT / name, source / name)
    run(UV, "build", "--quiet", "--wheel", "--out-dir", target, source, cwd=source)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that had nothing in it before the wheel."""
    made = tmp_path_factory.mktemp("environment") / "venv"
    run(UV, "venv", "--quiet", "--python", sys.executable, made, cwd=made.parent)
    run(UV, "pip", "install", "--quiet", "--python", made / "bin" / "python", wheel, cwd=made.parent)
    return made


def test_the_wheel_brings_no_top_level_package_but_xds(wheel: Path) -> None:
    top = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    (info,) = (name for name in top if name.endswith(".dist-info"))
    assert top == {"xds", info}


def test_the_wheel_has_what_the_build_hook_makes_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"xds/_generated/{name}" for name in ("__init__.py", "envoy.binpb", "xds_wire_pb2.py")} <= names
    assert not [name for name in names if "test" in name or "__pycache__" in name]


def test_it_says_that_it_is_typed(wheel: Path) -> None:
    assert "xds/py.typed" in zipfile.ZipFile(wheel).namelist()


def test_every_module_that_is_installed_imports(environment: Path, tmp_path: Path) -> None:
    program = """
import importlib, pathlib, pkgutil, xds
for module in pkgutil.walk_packages(xds.__path__, "xds."):
    importlib.import_module(module.name)
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


def test_xds_version(environment: Path, wheel: Path, tmp_path: Path) -> None:
    lines = run(environment / "bin" / "xds", "version", cwd=tmp_path).splitlines()
    assert lines[0] == f"xds {wheel.name.split('-')[1]}"


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
        child.signal(signal.SIGTERM)
        assert await child.wait_ended() == 0
